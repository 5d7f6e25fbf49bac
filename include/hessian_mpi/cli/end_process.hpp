#pragma once
/// The end of main.

namespace hessian_mpi::cli {

/// Ends the process with this exit code, once what was printed is passed on; it does not return, and is int for the
/// return of main. The destructors of static objects do not run: LibTorch's take its operators out of their tables one
/// by one, a quarter of the time of a short run. Nothing of the program's own is left to them: MPI and files have ended
/// before.
int end_process(int code) noexcept;

}  // namespace hessian_mpi::cli
