#include "differences.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <utility>

#include "hessian_mpi/engines/jacobian_rows.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "hessian_mpi/matrix/partition.hpp"

namespace hessian_mpi::run {
namespace {

constexpr double precision = std::numeric_limits<double>::epsilon();
constexpr int lines_through_all = 2;
constexpr std::size_t most_single_lines = 8;  // of diagonal blocks and diagonals
constexpr int most_steps = 4;
constexpr double next_step = 0.1;
// Forward and backward differences of a smooth function differ by what is far below this share of an error.
constexpr double contradiction = 0.1;
// Rounding errors in a function's value.
constexpr double rounding = 16 * precision;
constexpr std::uint64_t line_seed = 20260611;

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

double largest_of(const std::vector<double>& numbers) {
  double largest = 0;
  for (const double x : numbers) largest = std::max(largest, std::abs(x));
  return largest;
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

// The loss at a place of a line, and N numbers whose change along it is the matrix times v.
struct Place {
  double loss;
  std::vector<double> numbers;
};

struct Line {
  Place behind;
  Place ahead;
  double step;
};

file::CheckFigure compare_slope(const Line& line, const Place& here, double slope, double typical, double tolerance) {
  const double noise = rounding * std::abs(here.loss) / line.step;
  return compare({{slope, line.behind.loss, here.loss, line.ahead.loss}}, line.step,
                 std::max(typical, noise / tolerance), tolerance);
}

file::CheckFigure compare_rows(const Line& line, const Place& here, const std::vector<std::int64_t>& rows,
                               const std::vector<double>& products, double scale, double tolerance) {
  std::vector<Difference> differences;
  for (std::size_t k = 0; k < rows.size(); ++k) {
    const auto i = static_cast<std::size_t>(rows[k]);
    differences.push_back({products[k], line.behind.numbers[i], here.numbers[i], line.ahead.numbers[i]});
  }
  const double noise = rounding * largest_of(here.numbers) / line.step;
  return compare(differences, line.step, std::max(scale, noise / tolerance), tolerance);
}

// The worse of two outcomes, the larger of two errors.
file::CheckFigure worse(const file::CheckFigure& a, const file::CheckFigure& b) {
  if (a.outcome == file::CheckOutcome::not_made) return b;
  return {std::max(a.error, b.error), a.tolerance, std::max(a.outcome, b.outcome)};
}

bool passes(const DifferenceFigures& figures) {
  return figures.gradient.outcome != file::CheckOutcome::failed &&
         figures.hessian.outcome != file::CheckOutcome::failed;
}

// What is compared, and where.
class Check {
 public:
  Check(network::Problem& problem, Matrix matrix, const network::LossAndGradient& point, double scale,
        const file::DifferenceTolerances& tolerances)
      : problem_(problem),
        matrix_(matrix),
        point_(point),
        scale_(scale),
        tolerances_(tolerances),
        theta_(problem.flat_parameters()),
        here_(at(theta_)) {}

  // A twin in another precision whose loss is another one is another function.
  bool is_of_the_same_function() const {
    constexpr double rounding_of_float32 = 1e-3;
    const double largest = std::max(std::abs(point_.loss), std::abs(here_.loss));
    return std::abs(here_.loss - point_.loss) <= rounding_of_float32 * largest;
  }
  /// Along direction d of some lines.
  DifferenceFigures along(const Lines& lines, std::size_t d) const;

 private:
  Place at(const std::vector<double>& place) const;

  network::Problem& problem_;
  Matrix matrix_;
  const network::LossAndGradient& point_;
  double scale_;
  const file::DifferenceTolerances& tolerances_;
  std::vector<double> theta_;
  Place here_;
};

// Of a Hessian the gradient there; else outputs there, pulled back as they are here.
Place Check::at(const std::vector<double>& place) const {
  problem_.set_parameters(place);
  auto [loss, numbers] = network::evaluate(problem_);
  if (matrix_ == Matrix::hessian) {
    problem_.set_parameters(theta_);
    return {loss, std::move(numbers)};
  }
  const auto outputs = engines::outputs_of(problem_, matrix_);
  problem_.set_parameters(theta_);
  numbers = engines::pulled_back(problem_, matrix_, outputs);
  for (std::size_t k = 0; k < numbers.size(); ++k) numbers[k] += problem_.l2() * place[k];
  return {loss, std::move(numbers)};
}

DifferenceFigures Check::along(const Lines& lines, std::size_t d) const {
  const auto& v = lines.directions[d];
  if (dot(v, v) == 0)
    return {{0, tolerances_.gradient, file::CheckOutcome::passed},
            {0, tolerances_.hessian, file::CheckOutcome::passed}};
  // A slope along a random line is about so much.
  const double slope = std::sqrt(dot(point_.gradient, point_.gradient) / static_cast<double>(theta_.size()));
  const auto unsettled = [](const file::CheckFigure& figure) { return figure.outcome == file::CheckOutcome::kinks; };
  file::CheckFigure gradient{0, tolerances_.gradient, file::CheckOutcome::kinks};
  file::CheckFigure hessian{0, tolerances_.hessian, file::CheckOutcome::kinks};
  double step = std::cbrt(precision) * std::max(1.0, std::sqrt(dot(theta_, theta_)));
  for (int k = 0; k < most_steps && (unsettled(gradient) || unsettled(hessian)); ++k, step *= next_step) {
    const Line line{at(moved(theta_, lines.columns, v, -step)), at(moved(theta_, lines.columns, v, step)), step};
    if (unsettled(gradient)) {
      gradient =
          compare_slope(line, here_, dot(part_of(point_.gradient, lines.columns), v), slope, tolerances_.gradient);
    }
    if (unsettled(hessian)) {
      hessian = compare_rows(line, here_, lines.rows, lines.products[d], scale_, tolerances_.hessian);
    }
  }
  return {gradient, hessian};
}

}  // namespace

file::CheckFigure compare(const std::vector<Difference>& differences, double step, double scale, double tolerance) {
  double worst = 0;
  double contradicted = 0;  // where it is worst
  for (const auto& [derived, behind, here, ahead] : differences) {
    const double central = (ahead - behind) / (2 * step);
    const double difference = std::abs(derived - central);
    if (!std::isfinite(difference)) {
      return {std::numeric_limits<double>::infinity(), tolerance, file::CheckOutcome::failed};
    }
    scale = std::max({scale, std::abs(derived), std::abs(central)});
    if (difference <= worst) continue;
    worst = difference;
    contradicted = std::abs((ahead - here) - (here - behind)) / step;
  }
  const double error = worst > 0 ? worst / scale : 0;
  if (error <= tolerance) return {error, tolerance, file::CheckOutcome::passed};
  return {error, tolerance,
          contradicted >= contradiction * worst ? file::CheckOutcome::kinks : file::CheckOutcome::failed};
}

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
  if (matrix.entries != Entries::all && all.size() > most_single_lines) {
    std::vector<Lines> some;
    for (std::size_t k = 0; k < most_single_lines; ++k) some.push_back(all[k * all.size() / most_single_lines]);
    all = std::move(some);
  }
  std::mt19937_64 random(line_seed);
  for (auto& lines : all) {
    const std::size_t count = matrix.entries == Entries::all ? lines_through_all : 1;
    for (std::size_t d = 0; d < count; ++d) {
      lines.directions.push_back(random_direction(lines.columns.count(), random));
    }
    for (std::size_t d = 0; d < count; ++d) {
      lines.directions.push_back(without_constants(lines.directions[d], part_of(gradient, lines.columns)));
    }
  }
  return all;
}

DifferenceFigures check_differences(network::Problem& problem, Matrix matrix, const network::LossAndGradient& point,
                                    const std::vector<Lines>& lines, double scale,
                                    const file::DifferenceTolerances& tolerances) {
  const Check check(problem, matrix, point, scale, tolerances);
  if (!check.is_of_the_same_function()) return {};
  bool any_constants = false;
  const auto along = [&](bool with_constants) {
    DifferenceFigures all;
    for (const auto& some : lines) {
      const auto count = some.directions.size() / 2;
      for (std::size_t d = 0; d < count; ++d) {
        any_constants = any_constants || some.directions[d] != some.directions[d + count];
        const auto [gradient, hessian, constants] = check.along(some, with_constants ? d : d + count);
        all = {worse(all.gradient, gradient), worse(all.hessian, hessian), constants};
      }
    }
    return all;
  };
  const auto all = along(true);
  if (passes(all) || !any_constants) return all;
  auto without = along(false);
  without.constants = true;
  return passes(without) ? without : all;
}

}  // namespace hessian_mpi::run
