#pragma once
/// Whose fault it is when LibTorch throws.

#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/exception_words.hpp"
#include "hessian_mpi/network/torch_error.hpp"

namespace hessian_mpi::network {

/// Runs a step and takes what LibTorch throws as a mistake in the input, said by words(message). What is an Error
/// already stays one, and so does memory that runs out.
template <class Step, class Words>
auto blaming_input(const Step& step, const Words& words) {
  try {
    return step();
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    const auto reason = message_of(error);
    if (is_out_of_gpu_memory(reason)) throw std::runtime_error(reason);
    if (is_out_of_memory(error.what())) throw RunError(words_of(error));
    throw InputError(words(reason));
  }
}

}  // namespace hessian_mpi::network
