#pragma once
/// What a job is going to take, told from a sample of its rows, which are computed and thrown away, and from a file
/// that is written beside the output and never gets a name.

#include <cstdint>
#include <filesystem>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/engines/engine.hpp"
#include "hessian_mpi/layers/layer_plan.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/run/summary.hpp"

namespace hessian_mpi::run {

/// Collective. Takes some seconds. Every rank takes part in what ranks share; root alone computes the sample.
/// accumulate, memory: as LayerFactors has them. unfactored: makes the rows of the plan's first step. folder: of the
/// output. Throws RunError where the sample cannot be computed, or a file not written there.
Estimate estimate(const network::Problem& problem, const layers::LayerPlan& plan, const matrix::MatrixShape& matrix,
                  Precision accumulate, std::uint64_t memory, engines::Engine& unfactored,
                  const std::filesystem::path& folder, const ranks::Communicator& communicator);

}  // namespace hessian_mpi::run
