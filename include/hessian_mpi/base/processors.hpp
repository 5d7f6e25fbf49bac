#pragma once
/// For loops that are compiled for several kinds of processors, of which the machine's is taken when the program runs.

#if defined(__x86_64__) && defined(__GNUC__)
#define HESSIAN_MPI_KINDS_OF_PROCESSORS 1
#endif

/// A function whose plain loops the compiler makes vectors of, for each kind.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HESSIAN_MPI_FOR_PROCESSORS __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define HESSIAN_MPI_FOR_PROCESSORS
#endif

/// A function that takes the target of the one that calls it.
#define HESSIAN_MPI_INLINE inline __attribute__((always_inline))

namespace hessian_mpi {

/// Numbers that a processor computes with at once, in functions with __attribute__((target)): those of target_clones
/// would have the vectors of the least of all processors.
template <int bytes, class Number>
struct VectorOf {
  using Type [[gnu::vector_size(bytes)]] = Number;
  /// As it lies in memory, wherever that begins.
  using InMemory [[gnu::vector_size(bytes), gnu::aligned(alignof(Number)), gnu::may_alias]] = Number;
};

enum class Processor { any, avx2, avx512 };

/// That of this machine.
inline Processor this_processor() {
#ifdef HESSIAN_MPI_KINDS_OF_PROCESSORS
  static const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  static const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") != 0;
  if (avx512) return Processor::avx512;
  if (avx2) return Processor::avx2;
#endif
  return Processor::any;
}

}  // namespace hessian_mpi
