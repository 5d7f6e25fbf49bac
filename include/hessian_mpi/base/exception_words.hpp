#pragma once
/// What is said to a user of an exception that is none of the program's own. No dependencies.

#include <exception>
#include <string>
#include <string_view>

namespace hessian_mpi {

/// Its message without the stack trace that LibTorch adds, and what to do where memory has run out, the host's or a
/// GPU's.
std::string words_of(const std::exception& error);

/// Whether LibTorch says so, with this exception or in a trace of TorchScript's, which hides the exception's type: of
/// the host's memory or a GPU's, or of a GPU's.
bool is_out_of_memory(std::string_view message);
bool is_out_of_gpu_memory(std::string_view message);

}  // namespace hessian_mpi
