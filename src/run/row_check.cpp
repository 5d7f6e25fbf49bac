#include "row_check.hpp"

#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/engines/jacobian_rows.hpp"
#include "hessian_mpi/engines/output_map.hpp"
#include "hessian_mpi/engines/rows_of_samples.hpp"
#include "hessian_mpi/file/check_figures.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "hessian_mpi/network/rounding.hpp"
#include "hessian_mpi/run/derivative_check.hpp"

namespace hessian_mpi::run {
namespace {

// Row i, from one element selected out of the concatenated gradient.
std::vector<double> row_from_concatenated_gradient(const network::Problem& problem, std::int64_t i) {
  const auto n = problem.index().size();
  std::vector<double> row(static_cast<std::size_t>(n), 0.0);
  const auto sum = torch::from_blob(row.data(), {n}, torch::kFloat64);
  for (std::int64_t b = 0; b < problem.batches(); ++b) {
    auto gradient = problem.gradient(b, /*create_graph=*/true);
    for (std::size_t p = 0; p < gradient.size(); ++p) {
      if (!gradient[p].defined()) gradient[p] = torch::zeros_like(problem.parameters()[p]);
      gradient[p] = gradient[p].to_dense();
      if (b == 0 && problem.l2() != 0) gradient[p] = gradient[p] + problem.l2() * problem.parameters()[p];
      gradient[p] = gradient[p].reshape(-1);
    }
    const auto element = torch::cat(gradient).select(0, i);
    if (!element.requires_grad()) continue;
    const auto parts = torch::autograd::grad({element}, problem.parameters(), {}, false, false, /*allow_unused=*/true);
    for (std::size_t p = 0; p < parts.size(); ++p) {
      const auto& entry = problem.index().entries()[p];
      if (parts[p].defined()) sum.narrow(0, entry.offset, entry.size).add_(parts[p].to_dense().reshape(-1).cpu());
    }
  }
  return row;
}

// Row i of a matrix with rows of samples, from one number selected out of those of a whole batch.
std::vector<double> row_from_batch(const network::Problem& problem, Matrix matrix, std::int64_t i) {
  const auto rows_of_sample = engines::rows_of_sample(problem, matrix);
  const auto batch = i / rows_of_sample / problem.batch_size();
  const auto output = problem.output(batch);
  const double terms = matrix == Matrix::gradients ? problem.terms(output) : 1;
  const auto number = engines::numbers_of_samples(problem, matrix, output, terms)
                          .reshape(-1)
                          .select(0, i - problem.samples_in(batch).begin * rows_of_sample);
  std::vector<double> row(static_cast<std::size_t>(problem.index().size()), 0.0);
  if (!number.requires_grad()) return row;
  const auto sum = torch::from_blob(row.data(), {problem.index().size()}, torch::kFloat64);
  const auto parts = torch::autograd::grad({number}, problem.parameters(), {}, false, false, /*allow_unused=*/true);
  for (std::size_t p = 0; p < parts.size(); ++p) {
    const auto& entry = problem.index().entries()[p];
    if (parts[p].defined()) sum.narrow(0, entry.offset, entry.size).copy_(parts[p].to_dense().reshape(-1));
  }
  return row;
}

// Derives rows of the matrix again, one after the other.
std::function<std::vector<double>(std::int64_t)> rows_again(const network::Problem& problem, Matrix matrix) {
  if (matrix == Matrix::hessian) return [&](std::int64_t i) { return row_from_concatenated_gradient(problem, i); };
  if (has_rows_of_samples(matrix))
    return [&problem, matrix](std::int64_t i) { return row_from_batch(problem, matrix, i); };
  const auto engine = std::make_shared<engines::JacobianRows>(problem, matrix);
  return [&problem, matrix, engine](std::int64_t i) {
    std::vector<double> row(static_cast<std::size_t>(problem.index().size()));
    engine->compute({i, i + 1}, {0, problem.index().size()}, Precision::float64, row.data(), [](double) {});
    if (matrix == Matrix::ggn) row[static_cast<std::size_t>(i)] += problem.l2();
    return row;
  };
}

double largest_of(const std::vector<double>& numbers) {
  double largest = 0;
  for (const double x : numbers) largest = std::max(largest, std::abs(x));
  return largest;
}

// Infinite where the difference is not a number: max() alone would pass over it.
double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  for (std::size_t k = 0; k < a.size(); ++k) {
    const double difference = std::abs(a[k] - b[k]);
    largest = std::isnan(difference) ? std::numeric_limits<double>::infinity() : std::max(largest, difference);
  }
  return largest;
}

std::vector<double> row_of_file(const file::HessianReader& reader, std::int64_t i, const Rows& columns) {
  return reader.tile({static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(columns.begin), 1,
                      static_cast<std::uint64_t>(columns.count())});
}

std::vector<double> in_columns(const std::vector<double>& row, const Rows& columns) {
  return {row.begin() + columns.begin, row.begin() + columns.end};
}

}  // namespace

double row_error(const std::filesystem::path& file, const matrix::MatrixShape& shape, const network::Problem& problem,
                 Matrix matrix, const std::vector<std::int64_t>& rows, double largest,
                 const ranks::Communicator& communicator) {
  const double worst = communicator.together([&] {
    const file::HessianReader reader(file);
    const auto row_again = rows_again(problem, matrix);
    double found = 0;
    for (std::size_t k = 0; k < rows.size(); ++k) {
      if (static_cast<int>(k % static_cast<std::size_t>(communicator.size())) != communicator.rank()) continue;
      const Rows columns = shape.columns_of(rows[k]);
      const auto again = in_columns(row_again(rows[k]), columns);
      const auto stored = row_of_file(reader, rows[k], columns);
      const double scale = std::max({largest_of(again), file::floor_of_scale * largest});
      const double difference = largest_difference(again, stored);
      if (difference > 0) found = std::max(found, difference / scale);
    }
    return found;
  });
  return communicator.max(worst);
}

double noise_of_rows(network::Problem& problem, Matrix matrix, const matrix::MatrixShape& shape,
                     const std::vector<std::int64_t>& rows, double least) {
  const auto theta = problem.flat_parameters();
  double squares = 0;
  for (const double x : theta) squares += x * x;
  // Every parameter is moved, and so rounded anew.
  const double length = std::sqrt(static_cast<double>(theta.size()) / 2);
  const auto direction = [&](std::size_t k) { return std::sin(static_cast<double>(k + 1)) / length; };
  const Ruler ruler{std::sqrt(squares), network::coarsest_epsilon(problem)};
  double largest = 0;
  for (const auto i : rows) {
    const auto row_of = [&](const std::vector<double>& place) {
      problem.set_parameters(place);
      auto row = in_columns(rows_again(problem, matrix)(i), shape.columns_of(i));
      problem.set_parameters(theta);
      return row;
    };
    const auto row_at = [&](double distance) {
      auto place = theta;
      for (std::size_t k = 0; k < place.size(); ++k) place[k] += distance * direction(k);
      return row_of(place);
    };
    const auto row_nearer_zero = [&](double share) {
      auto place = theta;
      for (double& x : place) x *= share;
      try {
        return row_of(place);
      } catch (const InputError&) {  // where the network cannot be evaluated
        problem.set_parameters(theta);
        return std::vector<double>{};
      }
    };
    const double scale = std::max(largest_of(row_at(0)), least);
    const double left = largest_of(noise(row_at, noise_spacing(ruler))) + lost_digits(row_nearer_zero, ruler.epsilon);
    if (left > 0) largest = std::max(largest, left / scale);
  }
  return largest;
}

}  // namespace hessian_mpi::run
