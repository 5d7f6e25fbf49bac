#include "hessian_mpi/base/exception_words.hpp"

#include <algorithm>
#include <array>
#include <new>

namespace hessian_mpi {

namespace {

constexpr std::string_view cpu_allocator = "DefaultCPUAllocator: can't allocate memory";

// "... DefaultCPUAllocator: can't allocate memory: you tried to allocate 400 bytes. Error code 12 ..."
std::string amount_in(std::string_view message) {
  constexpr std::string_view before = "you tried to allocate ";
  const auto begin = message.find(before);
  if (begin == std::string_view::npos) return "";
  const auto amount = message.substr(begin + before.size());
  return " (" + std::string(amount.substr(0, amount.find('.'))) + " were not to be had)";
}

}  // namespace

std::string words_of(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    return "out of memory: run fewer ranks on a node, or give less with --memory";
  }
  const std::string_view message = error.what();
  if (message.find(cpu_allocator) != std::string_view::npos) {
    return "out of memory" + amount_in(message) +
           ": run fewer ranks on a node, give less with --memory, or take a smaller --batch-size";
  }
  std::string words(message.substr(0, message.find("\nException raised from ")));
  if (!is_out_of_gpu_memory(words)) return words;
  return "out of memory on the GPU: take a smaller --batch-size, or fewer ranks for each GPU (" + words + ")";
}

bool is_out_of_memory(std::string_view message) {
  return message.find(cpu_allocator) != std::string_view::npos || is_out_of_gpu_memory(message);
}

bool is_out_of_gpu_memory(std::string_view message) {
  constexpr std::array<std::string_view, 4> said{"CUDA out of memory", "CUDA error: out of memory",
                                                 "CUBLAS_STATUS_ALLOC_FAILED", "CUSOLVER_STATUS_ALLOC_FAILED"};
  return std::any_of(said.begin(), said.end(),
                     [&](auto words) { return message.find(words) != std::string_view::npos; });
}

}  // namespace hessian_mpi
