#include "output_pass.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/variable.h>

namespace hessian_mpi::layers {

using torch::Tensor;

std::vector<Tensor> derivatives_of_outputs(const CapturedForward& forward, const Tensor& x,
                                           const std::vector<std::size_t>& calls,
                                           const std::vector<Tensor>& parameters) {
  torch::autograd::edge_list edges;
  for (const auto c : calls) edges.push_back(forward.calls[c].output_edge);
  for (const auto& parameter : parameters) edges.push_back(torch::autograd::impl::gradient_edge(parameter));
  std::vector<Tensor> found(edges.size());
  if (forward.outputs.y.requires_grad() && !edges.empty()) {
    found = torch::autograd::Engine::get_default_engine().execute(
        {torch::autograd::impl::gradient_edge(forward.outputs.y)}, {x}, /*keep_graph=*/true, /*create_graph=*/false,
        /*accumulate_grad=*/false, edges);
  }
  for (std::size_t k = 0; k < found.size(); ++k) {
    const Tensor& of = k < calls.size() ? forward.calls[calls[k]].output : parameters[k - calls.size()];
    // Zeros may be kept without their memory.
    if (!found[k].defined() || found[k]._is_zerotensor())
      found[k] = at::zeros(of.sizes(), of.options().requires_grad(false));
    if (found[k].is_sparse()) found[k] = found[k].to_dense();
  }
  return found;
}

}  // namespace hessian_mpi::layers
