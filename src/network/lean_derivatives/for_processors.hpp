#pragma once
/// Loops are compiled for several processors, of which that of the machine is taken. Internal to the lean derivatives.

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HESSIAN_MPI_FOR_PROCESSORS __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define HESSIAN_MPI_FOR_PROCESSORS
#endif
