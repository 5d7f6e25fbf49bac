#pragma once
/// What a TorchScript file may hold: before LibTorch reads it, and before anything in it runs. Internal to
/// torchscript_model. All throw InputError without the file's name.

#include <torch/script.h>

#include <string>
#include <string_view>

namespace hessian_mpi::network {

/// The text of a member such as "code/__torch__.py": nested no deeper than LibTorch's parser, which calls itself, can
/// bear, and without methods that run while the file is read.
void check_source(const std::string& member, std::string_view source);

/// The pickle of a member such as "code/__torch__.py.debug_pkl": for every place in the code a range of the text that
/// it was made from. LibTorch reads it when it describes an error, where whatever is wrong with it ends the program.
void check_source_lines(const std::string& member, std::string_view pickle);

/// All functions that the file brings along call only operators on tensors, with constants that these know.
void check_functions(const torch::jit::Module& module);

/// Every attribute of the module and of all below it holds what its class says. LibTorch finds attributes by their
/// place in a class, and looks at neither.
void check_attributes(const torch::jit::Module& module);

}  // namespace hessian_mpi::network
