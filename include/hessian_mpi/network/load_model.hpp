#pragma once
/// Loads a network from a file, in whichever of PyTorch's formats. The one place that knows them all.

#include <filesystem>
#include <memory>

#include "hessian_mpi/network/model.hpp"

namespace hessian_mpi::network {

/// Loads a TorchScript module (torch.jit.save) or an exported program (torch.export.save); what the file holds
/// decides, not its name. Throws InputError naming the file: missing, unreadable, truncated, another kind of file.
std::unique_ptr<Model> load_model(const std::filesystem::path& file);

/// The same for a module that computes a loss.
std::unique_ptr<Model> load_loss(const std::filesystem::path& file);

}  // namespace hessian_mpi::network
