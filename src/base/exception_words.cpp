#include "hessian_mpi/base/exception_words.hpp"

#include <algorithm>
#include <array>
#include <new>

namespace hessian_mpi {

std::string words_of(const std::exception& error) {
  constexpr const char* without_memory = "out of memory: run fewer ranks on a node, or give less with --memory";
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return without_memory;
  const std::string_view message = error.what();
  std::string words(message.substr(0, message.find("\nException raised from ")));
  if (words.find("DefaultCPUAllocator: can't allocate memory") != std::string::npos) return without_memory;
  if (!is_out_of_gpu_memory(words)) return words;
  return "out of memory on the GPU: take a smaller --batch-size, or fewer ranks for each GPU (" + words + ")";
}

bool is_out_of_gpu_memory(std::string_view message) {
  constexpr std::array<std::string_view, 4> said{"CUDA out of memory", "CUDA error: out of memory",
                                                 "CUBLAS_STATUS_ALLOC_FAILED", "CUSOLVER_STATUS_ALLOC_FAILED"};
  return std::any_of(said.begin(), said.end(),
                     [&](auto words) { return message.find(words) != std::string_view::npos; });
}

}  // namespace hessian_mpi
