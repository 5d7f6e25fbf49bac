#pragma once
/// Matrices that are sums of J^T A J over batches, with J the derivative of what a network returns: the generalised
/// Gauss-Newton matrix and the empirical Fisher matrix.
///
///   ggn     y = the network's outputs for the batch, A = d2L / dy2 (Schraudolph, Fast curvature matrix-vector products
///           for second-order gradient descent, 2002): H without the second derivatives of the network
///   fisher  y = the samples' shares in L, A = n for a mean over n samples, 1 for a sum: with l_s = n y_s or y_s,
///           the mean or the sum of grad l_s grad l_s^T

#include <torch/types.h>

#include <cstdint>
#include <functional>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/network/problem.hpp"

namespace hessian_mpi::engines {

/// One batch's y and A.
struct OutputMap {
  torch::Tensor y;                                           ///< [K], connected to the parameters
  std::function<torch::Tensor(const torch::Tensor&)> times;  ///< A x, for x of shape [K]
};

/// Not collective. Runs the network. matrix: ggn or fisher. copies: of the batch, as Problem::loss has them. Throws
/// InputError where the loss is the model's own, where the output holds what is not tensors in tuples, lists and dicts,
/// and for fisher where samples are not its first dimension.
OutputMap output_map(const network::Problem& problem, Matrix matrix, std::int64_t batch, std::int64_t copies = 1);

/// What the rows of a matrix with rows of samples are derivatives of, for samples that the network has run on:
/// [samples, rows of a sample], connected to the parameters.
///
///   jacobian   all numbers that the network returns for a sample, one tensor after the other
///   gradients  the sample's loss l_s, such that the loss of the data set is the mean of all l_s, or for a sum their
///   sum
///
/// terms: of the loss of the whole data set (Problem::terms). Throws InputError where samples are not the first
/// dimension of what the network returns.
torch::Tensor numbers_of_samples(const network::Problem& problem, Matrix matrix, const network::BatchOutput& output,
                                 double terms);

}  // namespace hessian_mpi::engines
