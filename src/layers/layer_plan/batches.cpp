#include "layer_plan/batches.hpp"

#include "layer_tensors.hpp"

namespace hessian_mpi::layers {
namespace {

using torch::Tensor;

// Adds what a batch shows.
void compare(const CapturedForward& first, const CapturedForward& other, std::int64_t samples_of_first,
             std::int64_t samples_of_other, BatchesInCommon& common) {
  const auto in_proportion = [&](const Tensor& a, const Tensor& b) {
    return a.numel() * samples_of_other == b.numel() * samples_of_first;
  };
  const auto& outputs = first.outputs;
  const bool by_sample = !outputs.times || in_proportion(outputs.y, other.outputs.y);
  common.alike =
      common.alike && by_sample && first.calls.size() == other.calls.size() && first.reasons == other.reasons;
  for (std::size_t c = 0; common.alike && c < first.calls.size(); ++c) {
    const auto& one = first.calls[c];
    const auto& two = other.calls[c];
    common.alike = one.weight == two.weight && one.bias == two.bias;
    if (in_proportion(one.output, two.output) && in_proportion(one.input, two.input)) continue;
    common.has_samples[c] = false;
    common.alike = common.alike && one.elementwise;
  }
}

}  // namespace

BatchesInCommon in_common(const network::Problem& problem, const CapturedForward& first) {
  BatchesInCommon common;
  common.outputs.push_back(first.outputs.y.numel());
  for (const auto& call : first.calls) {
    const auto rows = call.output.numel() / outputs_of(call);
    common.has_samples.push_back(!call.elementwise || rows % problem.batch_size() == 0);
  }
  for (std::int64_t b = 1; b < problem.batches(); ++b) {
    const auto other = capture_layers(problem, b);
    common.outputs.push_back(other.outputs.y.numel());
    compare(first, other, problem.batch_size(), problem.samples_in(b).count(), common);
  }
  return common;
}

}  // namespace hessian_mpi::layers
