#pragma once
/// What the user reads before and after a run, on rank 0.

#include <iosfwd>

#include "hessian_mpi/run/summary.hpp"

namespace hessian_mpi::run {

void print(std::ostream& out, const Announcement& announcement);
void print(std::ostream& out, const Forecast& forecast);
void print(std::ostream& out, const Summary& summary);

}  // namespace hessian_mpi::run
