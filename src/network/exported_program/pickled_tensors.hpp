#pragma once
/// Tensors as torch.export.save kept them up to PyTorch 2.8: a torch.save archive within the archive, of a dict from
/// names to tensors. Internal to exported_program.

#include <torch/types.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hessian_mpi::network {

/// In the order of the dict. On the CPU, contiguous in row-major order, owning their memory; two names of one tensor
/// give the same tensor. Those that were an nn.Parameter keep its requires_grad, others have none. Everything in the
/// bytes may be damaged or hostile. Throws InputError (without a file's name) for anything else than such an archive,
/// and c10::Error where LibTorch cannot read it.
std::vector<std::pair<std::string, torch::Tensor>> pickled_tensors(std::string_view bytes);

}  // namespace hessian_mpi::network
