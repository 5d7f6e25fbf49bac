#pragma once
/// From options to the problem that they describe.

#include <functional>
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

/// What becomes of a network's casts to dtypes narrower than its own: made as the network says, or in float64 not.
enum class NarrowCasts { widened, kept };
/// Makes a problem again, to check its derivatives by. Not collective; may throw InputError.
using MakeTwin = std::function<network::Problem(Precision, NarrowCasts)>;

/// Those of the problem that the options describe.
MakeTwin twins_of(const Options& options, torch::Device device);

}  // namespace hessian_mpi::run
