#pragma once
/// The time of day, for files that say when they were made.

#include <string>

namespace hessian_mpi {

/// The present moment as "2026-06-11T09:30:00Z".
std::string timestamp();

}  // namespace hessian_mpi
