#include "differences.hpp"

#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/engines/jacobian_rows.hpp"
#include "hessian_mpi/engines/rows_of_samples.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/run/derivative_check.hpp"

namespace hessian_mpi::run {
namespace {

constexpr int lines_through_all = 2;
constexpr std::size_t most_single_lines = 8;  // of diagonal blocks and diagonals
constexpr std::uint64_t line_seed = 20260611;

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

// A place on a line that moves the parameters of some columns.
std::vector<double> moved(const std::vector<double>& theta, const Rows& columns, const std::vector<double>& v,
                          double step) {
  std::vector<double> result(theta);
  for (std::size_t k = 0; k < v.size(); ++k) result[static_cast<std::size_t>(columns.begin) + k] += step * v[k];
  return result;
}

std::vector<double> part_of(const std::vector<double>& numbers, const Rows& columns) {
  return {numbers.begin() + columns.begin, numbers.begin() + columns.end};
}

std::vector<double> random_direction(std::int64_t count, std::mt19937_64& random) {
  std::normal_distribution<double> normal;
  std::vector<double> v(static_cast<std::size_t>(count));
  for (auto& x : v) x = normal(random);
  const double length = std::sqrt(dot(v, v));
  for (auto& x : v) x /= length;
  return v;
}

std::vector<double> without_constants(std::vector<double> v, const std::vector<double>& gradient) {
  for (std::size_t k = 0; k < v.size(); ++k) v[k] = gradient[k] == 0 ? 0 : v[k];
  return v;
}

// The worse of two outcomes, the larger of two errors.
file::CheckFigure worse(const file::CheckFigure& a, const file::CheckFigure& b) {
  if (a.outcome == file::CheckOutcome::not_made) return b;
  return {std::max(a.error, b.error), std::max(a.tolerance, b.tolerance), std::max(a.outcome, b.outcome)};
}

bool passes(const DifferenceFigures& figures) {
  return figures.gradient.outcome != file::CheckOutcome::failed &&
         figures.hessian.outcome != file::CheckOutcome::failed;
}

// The Hessian times v, by a derivative of the gradient's product with v.
std::vector<double> hessian_times(const network::Problem& problem, const std::vector<double>& v) {
  const auto& entries = problem.index().entries();
  std::vector<double> result(v);
  for (auto& x : result) x *= problem.l2();
  const auto sum = torch::from_blob(result.data(), {problem.index().size()}, torch::kFloat64);
  const auto direction = torch::from_blob(const_cast<double*>(v.data()), {problem.index().size()}, torch::kFloat64);
  for (std::int64_t b = 0; b < problem.batches(); ++b) {
    const auto gradient = problem.gradient(b, /*create_graph=*/true);
    torch::Tensor slope;
    for (std::size_t p = 0; p < gradient.size(); ++p) {
      if (!gradient[p].defined() || !gradient[p].requires_grad()) continue;
      const auto part = direction.narrow(0, entries[p].offset, entries[p].size).to(gradient[p].options());
      const auto product = gradient[p].reshape(-1).dot(part);
      slope = slope.defined() ? slope + product : product;
    }
    if (!slope.defined()) continue;
    const auto parts = torch::autograd::grad({slope}, problem.parameters(), {}, false, false, /*allow_unused=*/true);
    for (std::size_t p = 0; p < parts.size(); ++p) {
      if (parts[p].defined())
        sum.narrow(0, entries[p].offset, entries[p].size).add_(parts[p].to_dense().reshape(-1).cpu());
    }
  }
  return result;
}

// A line through the point along a direction.
struct Direction {
  const Lines& lines;
  const std::vector<double>& v;
  const std::vector<double>& product;  // the matrix's, in the rows

  // Numbers of a problem at a place of the line; so many times NaN where it cannot be evaluated there.
  template <class Evaluate>
  std::vector<double> at(network::Problem& problem, const std::vector<double>& theta, double distance,
                         std::size_t count, const Evaluate& evaluate) const {
    std::vector<double> result(count, std::numeric_limits<double>::quiet_NaN());
    problem.set_parameters(moved(theta, lines.columns, v, distance));
    try {
      result = evaluate();
    } catch (const InputError&) {
      if (distance == 0) throw;
    }
    problem.set_parameters(theta);
    return result;
  }
  std::vector<double> in_rows(const std::vector<double>& numbers) const {
    std::vector<double> result;
    for (const auto i : lines.rows) result.push_back(numbers[static_cast<std::size_t>(i)]);
    return result;
  }
  // v among all columns.
  std::vector<double> widened(std::size_t n) const {
    std::vector<double> result(n, 0.0);
    std::copy(v.begin(), v.end(), result.begin() + lines.columns.begin);
    return result;
  }
};

// What is compared, and where.
class Check {
 public:
  Check(const Twins& twins, Matrix matrix, const network::LossAndGradient& point, double scale,
        const file::DifferenceTolerances& tolerances)
      : twins_(twins),
        matrix_(matrix),
        point_(point),
        scale_(scale),
        tolerances_(tolerances),
        theta_(twins.float64.flat_parameters()),
        length_(std::sqrt(dot(theta_, theta_))),
        here_(network::evaluate(twins.float64)) {}

  // A twin in another precision whose loss is another one, by more than rounding, is another function.
  bool is_of_the_same_function(const Direction& some) const;
  DifferenceFigures along(const Direction& line) const;

 private:
  // The loss, then numbers whose change along the line is the matrix times v, in its rows.
  std::vector<double> numbers_at(const Direction& line, double distance) const;
  using Evaluate = std::function<std::vector<double>(const network::Problem&)>;
  // Rounding of what was derived, in the precision in which it was.
  std::vector<double> noise_of_own(const Direction& line, std::size_t count, const Evaluate& evaluate) const;

  const Twins& twins_;
  Matrix matrix_;
  const network::LossAndGradient& point_;
  double scale_;
  const file::DifferenceTolerances& tolerances_;
  std::vector<double> theta_;
  double length_;
  network::LossAndGradient here_;  // in float64
};

std::vector<double> Check::noise_of_own(const Direction& line, std::size_t count, const Evaluate& evaluate) const {
  auto& own = twins_.own();
  return noise([&](double distance) { return line.at(own, theta_, distance, count, [&] { return evaluate(own); }); },
               noise_spacing(length_));
}

bool Check::is_of_the_same_function(const Direction& some) const {
  constexpr double rounding_of_float32 = 1e-3;
  constexpr double deviations = 10;
  const double difference = std::abs(here_.loss - point_.loss);
  const double allowed = rounding_of_float32 * std::max(std::abs(point_.loss), std::abs(here_.loss));
  if (difference <= allowed) return true;
  const auto noise_of_loss = noise_of_own(
      some, 1, [](const network::Problem& own) { return std::vector<double>{network::evaluate(own).loss}; });
  return difference <= allowed + deviations * noise_of_loss.front();
}

// Of a Hessian the gradient; of rows of samples what they are derivatives of; else outputs there, pulled back as they
// are at the point.
std::vector<double> Check::numbers_at(const Direction& line, double distance) const {
  const auto in_rows = [&](double loss, const std::vector<double>& numbers) {
    auto result = line.in_rows(numbers);
    result.insert(result.begin(), loss);
    return result;
  };
  auto& twin = twins_.float64;
  if (matrix_ == Matrix::hessian) {
    if (distance == 0) return in_rows(here_.loss, here_.gradient);
    return line.at(twin, theta_, distance, line.lines.rows.size() + 1, [&] {
      const auto there = network::evaluate(twin);
      return in_rows(there.loss, there.gradient);
    });
  }
  if (has_rows_of_samples(matrix_)) {
    return line.at(twin, theta_, distance, line.lines.rows.size() + 1, [&] {
      const auto numbers = engines::numbers_of_all_samples(twin, matrix_);
      return in_rows(distance == 0 ? here_.loss : network::evaluate(twin).loss, numbers);
    });
  }
  std::vector<torch::Tensor> outputs;
  const auto loss = line.at(twin, theta_, distance, 1, [&] {
    outputs = engines::outputs_of(twin, matrix_);
    return std::vector<double>{network::evaluate(twin).loss};
  });
  auto numbers = engines::pulled_back(twin, matrix_, outputs);
  const auto place = moved(theta_, line.lines.columns, line.v, distance);
  for (std::size_t k = 0; k < numbers.size(); ++k) numbers[k] += twin.l2() * place[k];
  return in_rows(loss.front(), numbers);
}

DifferenceFigures Check::along(const Direction& line) const {
  if (dot(line.v, line.v) == 0)
    return {{0, tolerances_.gradient, file::CheckOutcome::passed},
            {0, tolerances_.hessian, file::CheckOutcome::passed}};
  std::map<double, std::vector<double>> places;
  const auto at = [&](double distance) -> const std::vector<double>& {
    const auto found = places.find(distance);
    return found != places.end() ? found->second : places.emplace(distance, numbers_at(line, distance)).first->second;
  };
  const auto loss = [&](double distance) { return std::vector<double>{at(distance).front()}; };
  const auto rows = [&](double distance) { return std::vector<double>(at(distance).begin() + 1, at(distance).end()); };
  const auto noise_of_slope = [&] {
    return noise_of_own(line, 1, [&](const network::Problem& own) {
      return std::vector<double>{dot(part_of(network::evaluate(own).gradient, line.lines.columns), line.v)};
    });
  };
  const auto noise_of_rows = [&] {
    if (matrix_ != Matrix::hessian) return std::vector<double>(line.lines.rows.size(), 0.0);
    return noise_of_own(line, line.lines.rows.size(), [&](const network::Problem& own) {
      return line.in_rows(hessian_times(own, line.widened(theta_.size())));
    });
  };
  const double slope = dot(part_of(point_.gradient, line.lines.columns), line.v);
  // A slope along a random line is about so much.
  const double typical = std::sqrt(dot(point_.gradient, point_.gradient) / static_cast<double>(theta_.size()));
  return {compare({{slope}, noise_of_slope}, loss, length_, typical, tolerances_.gradient),
          compare({line.product, noise_of_rows}, rows, length_, scale_, tolerances_.hessian)};
}

}  // namespace

std::vector<std::vector<double>> products(const std::filesystem::path& file, const Lines& lines,
                                          const ranks::Communicator& communicator) {
  const auto own = communicator.together([&] {
    const file::HessianReader reader(file);
    std::vector<std::uint64_t> bits;
    for (const auto i : matrix::share_of_rank(lines.rows, communicator.rank(), communicator.size())) {
      const auto row = reader.tile({static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(lines.columns.begin), 1,
                                    static_cast<std::uint64_t>(lines.columns.count())});
      for (const auto& v : lines.directions) bits.push_back(std::bit_cast<std::uint64_t>(dot(row, v)));
    }
    return bits;
  });
  const auto all = communicator.join(own);
  std::vector<std::vector<double>> result(lines.directions.size());
  for (std::size_t k = 0; k < all.size(); ++k) result[k % result.size()].push_back(std::bit_cast<double>(all[k]));
  return result;
}

std::vector<Lines> random_lines(const std::vector<double>& gradient, const matrix::MatrixShape& matrix,
                                const std::vector<std::int64_t>& sample) {
  std::vector<Lines> all;
  for (const auto row : sample) {
    const Rows columns = matrix.columns_of(row);
    if (all.empty() || all.back().columns != columns) all.push_back({columns, {}, {}, {}});
    all.back().rows.push_back(row);
  }
  if (!matrix.has_whole_rows() && all.size() > most_single_lines) {
    std::vector<Lines> some;
    for (std::size_t k = 0; k < most_single_lines; ++k) some.push_back(all[k * all.size() / most_single_lines]);
    all = std::move(some);
  }
  std::mt19937_64 random(line_seed);
  for (auto& lines : all) {
    const std::size_t count = matrix.has_whole_rows() ? lines_through_all : 1;
    for (std::size_t d = 0; d < count; ++d) {
      lines.directions.push_back(random_direction(lines.columns.count(), random));
    }
    for (std::size_t d = 0; d < count; ++d) {
      lines.directions.push_back(without_constants(lines.directions[d], part_of(gradient, lines.columns)));
    }
  }
  return all;
}

DifferenceFigures check_differences(const Twins& twins, Matrix matrix, const network::LossAndGradient& point,
                                    const std::vector<Lines>& lines, double scale,
                                    const file::DifferenceTolerances& tolerances) {
  const Check check(twins, matrix, point, scale, tolerances);
  const auto direction = [](const Lines& some, std::size_t d) {
    return Direction{some, some.directions[d], some.products[d]};
  };
  if (!check.is_of_the_same_function(direction(lines.front(), 0))) return {};
  bool any_constants = false;
  bool all_constants = true;  // where the loss is exactly at its minimum, too
  const auto along = [&](bool with_constants) {
    DifferenceFigures all;
    for (const auto& some : lines) {
      const auto count = some.directions.size() / 2;
      for (std::size_t d = 0; d < count; ++d) {
        any_constants = any_constants || some.directions[d] != some.directions[d + count];
        all_constants = all_constants && dot(some.directions[d + count], some.directions[d + count]) == 0;
        const auto [gradient, hessian, constants] = check.along(direction(some, with_constants ? d : d + count));
        all = {worse(all.gradient, gradient), worse(all.hessian, hessian), constants};
      }
    }
    return all;
  };
  const auto all = along(true);
  if (passes(all) || !any_constants || all_constants) return all;
  auto without = along(false);
  without.constants = true;
  return passes(without) ? without : all;
}

}  // namespace hessian_mpi::run
