#pragma once
/// From options to the problem that they describe.

#include <optional>

#include "hessian_mpi/network/problem.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/run/options.hpp"

namespace hessian_mpi::run {

/// Not collective. Loads the model and the data that the options name, or the embedded example. precision: of
/// parameters, data and derivatives; the model's where absent. Throws InputError.
network::Problem load_problem(const Options& options, std::optional<Precision> precision,
                              torch::Device device = torch::kCPU);

/// Collective. Ranks that were started in other folders may read other files under the names that the options have:
/// throws InputError then.
void expect_same_inputs(const Options& options, const ranks::Communicator& communicator);

/// The same function as the problem's in the precision, to check it by: in float64 casts that float32 has rounded by,
/// such as to half, round as well.
network::Problem load_twin(Options options, const network::Problem& problem, Precision precision);

}  // namespace hessian_mpi::run
