#pragma once
/// All nodes of a TorchScript file's code. Internal to torchscript_model.

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/script.h>

#include <functional>

namespace hessian_mpi::network {

/// Those of a block, of the blocks in it, and of what torch.jit.fork runs, which is a graph of its own.
inline void visit_nodes(torch::jit::Block& block, const std::function<void(torch::jit::Node&)>& visit) {
  for (torch::jit::Node* node : block.nodes()) {
    visit(*node);
    for (torch::jit::Block* inner : node->blocks()) visit_nodes(*inner, visit);
    if (node->hasAttribute(c10::attr::Subgraph)) visit_nodes(*node->g(c10::attr::Subgraph)->block(), visit);
  }
}

/// Calls visit(function, its graph's outermost block) for all functions that the module's file brings along.
template <class Visit>
void visit_functions(const torch::jit::Module& module, const Visit& visit) {
  for (torch::jit::Function* function : module._ivalue()->compilation_unit()->get_functions()) {
    if (auto* const code = torch::jit::tryToGraphFunction(*function)) visit(*function, *code->graph()->block());
  }
}

}  // namespace hessian_mpi::network
