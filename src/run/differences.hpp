#pragma once
/// First and second derivatives against differences of what they are derivatives of, along lines through the point, in
/// float64: the one check that shares no derivative with what it checks.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "hessian_mpi/file/check_figures.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::run {

struct DifferenceFigures {
  file::CheckFigure gradient;  ///< the slope of the loss
  file::CheckFigure hessian;   ///< H v, in some rows
  /// The loss depends on parameters whose gradient is exactly zero, as on the row of an embedding that is its
  /// padding_idx: autograd takes them for constants. The figures are those of the other parameters.
  bool constants = false;
};

/// Random lines through a point that move some parameters alone, and rows of the matrix that have entries in all
/// columns of those.
struct Lines {
  Rows columns;                    ///< which parameters move
  std::vector<std::int64_t> rows;  ///< in which H v is looked at
  /// Unit vectors, of as many numbers as there are columns; then the same without the parameters whose gradient is
  /// exactly zero.
  std::vector<std::vector<double>> directions;
  /// products() of the rows with the directions.
  std::vector<std::vector<double>> products;
};

/// The same in every call. sample: rows of the file, of which some are looked at. Where all entries are made, two lines
/// that move all parameters; else a line in each of some tensors, or along some single parameters.
std::vector<Lines> random_lines(const std::vector<double>& gradient, const matrix::MatrixShape& matrix,
                                const std::vector<std::int64_t>& sample);

/// Collective: each rank reads its share of the rows. For each direction one number a row.
std::vector<std::vector<double>> products(const std::filesystem::path& file, const Lines& lines,
                                          const ranks::Communicator& communicator);

/// The problem whose derivatives are checked, again, for differences and to measure rounding.
struct Twins {
  network::Problem& float64;                      ///< what differences are taken of: without casts to narrower dtypes
  std::function<network::Problem&()> own;         ///< in the precision of the derivatives, with the casts
  std::function<network::Problem&()> with_casts;  ///< in float64
  double epsilon;                                 ///< of the narrowest numbers that `own` computes with
  bool has_casts;                                 ///< these are narrower than its precision
};

/// Not collective. point: loss and gradient as they stand in the file. The twins' parameters are moved and put back. Of
/// a Gauss-Newton or Fisher matrix it is the outputs that differences are taken of, pulled back by J^T A. Steps and
/// noise: derivative_check.hpp. The lines without some parameters are gone along where the others fail. scale: errors
/// are relative to this at least. Nothing is made where the float64 twin's loss is not that of the point, by more than
/// rounding: it is another function then. Where the network casts to narrower dtypes, tolerances are so many times
/// their precision at least, and it is the twin with casts whose differences are taken where the other one is another
/// function.
DifferenceFigures check_differences(const Twins& twins, Matrix matrix, const network::LossAndGradient& point,
                                    const std::vector<Lines>& lines, double scale,
                                    const file::DifferenceTolerances& tolerances);

}  // namespace hessian_mpi::run
