#include "hessian_mpi/base/exception_words.hpp"

#include <gtest/gtest.h>

#include <new>
#include <stdexcept>

namespace hessian_mpi {
namespace {

constexpr const char* as_libtorch_says_it =
    "CUDA out of memory. Tried to allocate 20.00 MiB.\n"
    "Exception raised from malloc at CUDACachingAllocator.cpp:1 (most recent call first):\n"
    "frame #0: c10::Error::Error";

TEST(ExceptionWords, AreTheMessageWithoutAStackTrace) {
  EXPECT_EQ(words_of(std::runtime_error("two\nlines")), "two\nlines");
  EXPECT_EQ(words_of(std::runtime_error("sizes differ\nException raised from f at a.cpp:1 (most recent call first):")),
            "sizes differ");
}

TEST(ExceptionWords, SayWhatToDoWithoutMemory) {
  const auto on_host = words_of(std::bad_alloc());
  EXPECT_NE(on_host.find("--memory"), std::string::npos) << on_host;
  EXPECT_EQ(words_of(std::runtime_error("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
                                        "allocate memory: you tried to allocate 400 bytes. Error code 12")),
            "out of memory (400 bytes were not to be had): run fewer ranks on a node, give less with --memory, or take "
            "a smaller --batch-size");
  const auto on_gpu = words_of(std::runtime_error(as_libtorch_says_it));
  EXPECT_TRUE(on_gpu.starts_with("out of memory on the GPU: ")) << on_gpu;
  EXPECT_NE(on_gpu.find("--batch-size"), std::string::npos) << on_gpu;
  EXPECT_NE(on_gpu.find("Tried to allocate 20.00 MiB"), std::string::npos) << on_gpu;
  EXPECT_EQ(on_gpu.find("frame"), std::string::npos) << on_gpu;
}

TEST(ExceptionWords, KnowMemoryThatRanOutInsideOfATrace) {
  EXPECT_TRUE(is_out_of_gpu_memory(as_libtorch_says_it));
  EXPECT_TRUE(is_out_of_gpu_memory("Traceback of TorchScript\nRuntimeError: CUDA out of memory."));
  EXPECT_TRUE(is_out_of_gpu_memory("CUDA error: out of memory"));
  EXPECT_TRUE(is_out_of_gpu_memory("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"));
  EXPECT_FALSE(is_out_of_gpu_memory("DefaultCPUAllocator: can't allocate memory"));
  EXPECT_TRUE(is_out_of_memory("Traceback of TorchScript\nRuntimeError: DefaultCPUAllocator: can't allocate memory"));
  EXPECT_TRUE(is_out_of_memory(as_libtorch_says_it));
  EXPECT_FALSE(is_out_of_memory("mat1 and mat2 shapes cannot be multiplied"));
}

}  // namespace
}  // namespace hessian_mpi
