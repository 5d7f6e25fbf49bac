#pragma once
/// First and second derivatives against differences of what they are derivatives of, along lines through the point, in
/// float64: the one check that shares no derivative with what it checks.

#include <cstdint>
#include <filesystem>
#include <vector>

#include "hessian_mpi/file/check_figures.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::run {

/// A derivative along a line, and its function at three places of the line, step apart.
struct Difference {
  double derived;
  double behind;
  double here;
  double ahead;
};

/// Compares derivatives with central differences. The error is the largest difference divided by the largest of either,
/// or by scale if that is more. Above the tolerance the outcome is kinks where forward and backward differences
/// contradict each other as well, at least by a tenth as much; else failed. Numbers that are not finite fail.
file::CheckFigure compare(const std::vector<Difference>& differences, double step, double scale, double tolerance);

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

/// Not collective. point: loss and gradient as they stand in the file. problem: of float64 precision; its parameters
/// are moved and put back. The step is the cube root of the precision, times the length of theta where that is more
/// than 1: there truncation and rounding of a central difference balance. Of a Gauss-Newton or Fisher matrix it is the
/// outputs that differences are taken of, pulled back by J^T A. Where it meets kinks, steps of a tenth, a hundredth and
/// a thousandth are tried. The lines without some parameters are gone along where the others fail. scale: errors are
/// relative to this at least. Nothing is made where the problem's loss is not that of the point: it is another function
/// then.
DifferenceFigures check_differences(network::Problem& problem, Matrix matrix, const network::LossAndGradient& point,
                                    const std::vector<Lines>& lines, double scale,
                                    const file::DifferenceTolerances& tolerances);

}  // namespace hessian_mpi::run
