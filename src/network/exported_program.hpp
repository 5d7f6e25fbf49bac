#pragma once
/// An exported program (`.pt2`, torch.export.save) as a Model: LibTorch's C++ packages have no loader for it that
/// keeps autograd, so the graph is read here and its operators are called one by one through the dispatcher.

#include <filesystem>
#include <memory>

#include "hessian_mpi/network/model.hpp"

namespace hessian_mpi::network {

/// True if the file is a zip archive with the members of torch.export.save. Reads only the archive's directory.
bool is_exported_program(const std::filesystem::path& file);

/// Loads the program. Throws InputError naming the file and what it holds that cannot be run: an operator that is
/// not in this LibTorch, one that reaches out of the tensor library, a construct that runs parts of the program in a
/// way that is not known here, a derivative that torch.export left out.
std::unique_ptr<Model> load_exported_program(const std::filesystem::path& file);

}  // namespace hessian_mpi::network
