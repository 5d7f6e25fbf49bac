#pragma once
/// A product against differences of what the matrix is a derivative of: before many products are made.

#include <functional>
#include <string>

#include "hessian_mpi/file/check_figures.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "hessian_mpi/products/network_product.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/run/load_problem.hpp"

namespace hessian_mpi::products {

struct ProductCheck {
  file::CheckFigure figure;
  std::string warning;  ///< for the user; empty where there is nothing to say
  double epsilon = 0;   ///< of the narrowest numbers that products are computed with
  double seconds = 0;   ///< of the second product, on the slowest rank: a first one makes graphs
};

/// Collective. One random line through the point, in float64, in a sample of elements: of a Hessian the gradient along
/// it, else outputs along it, pulled back by J^T A. Steps and noise are those of run::compare(). Parameters whose
/// gradient is exactly zero stay where they are, where the check fails with them: autograd takes some for constants.
/// twin is called on each rank.
ProductCheck check_product(NetworkProduct& product, const network::Problem& problem,
                           const network::LossAndGradient& point, const run::MakeTwin& twin,
                           const std::function<void()>& between, const ranks::Communicator& communicator);

}  // namespace hessian_mpi::products
