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

/// Defines for each kind what define(kind, bytes, target) is: with the bytes of its vectors, and the attribute of
/// functions that use them.
#ifdef HESSIAN_MPI_KINDS_OF_PROCESSORS
#define HESSIAN_MPI_FOR_EACH_PROCESSOR(define)           \
  define(any, 16, );                                     \
  define(avx2, 32, __attribute__((target("avx2,fma")))); \
  define(avx512, 64, __attribute__((target("avx512f,avx2,fma"))))
#else
#define HESSIAN_MPI_FOR_EACH_PROCESSOR(define) define(any, 16, )
#endif

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

/// Calls call with the functions of this machine's kind.
template <template <Processor> class Functions, class Call>
void for_this_processor(const Call& call) {
#ifdef HESSIAN_MPI_KINDS_OF_PROCESSORS
  const auto processor = this_processor();
  if (processor == Processor::avx512) return call(Functions<Processor::avx512>());
  if (processor == Processor::avx2) return call(Functions<Processor::avx2>());
#endif
  call(Functions<Processor::any>());
}

}  // namespace hessian_mpi
