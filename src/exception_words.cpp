#include "hessian_mpi/exception_words.hpp"

#include <new>

namespace hessian_mpi {

std::string words_of(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr)
    return "out of memory: run fewer ranks on a node, or give less with --memory";
  const std::string_view message = error.what();
  const std::string words(message.substr(0, message.find("\nException raised from ")));
  if (!is_out_of_gpu_memory(words)) return words;
  return "out of memory on the GPU: take a smaller --batch-size, or fewer ranks for each GPU (" + words + ")";
}

bool is_out_of_gpu_memory(std::string_view message) {
  return message.find("CUDA out of memory") != std::string_view::npos;
}

}  // namespace hessian_mpi
