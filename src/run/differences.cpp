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
#include "hessian_mpi/engines/batch_product.hpp"
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

std::vector<double> times(double share, std::vector<double> numbers) {
  for (double& x : numbers) x *= share;
  return numbers;
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

// The matrix times v, derived anew: numbers for all rows.
std::vector<double> matrix_times(const network::Problem& problem, Matrix matrix, const std::vector<double>& v) {
  const auto& entries = problem.index().entries();
  const auto direction = torch::from_blob(const_cast<double*>(v.data()), {problem.index().size()}, torch::kFloat64);
  std::vector<torch::Tensor> parts;
  for (std::size_t p = 0; p < entries.size(); ++p) {
    parts.push_back(direction.narrow(0, entries[p].offset, entries[p].size)
                        .reshape(entries[p].shape)
                        .to(problem.parameters()[p].options()));
  }
  if (has_rows_of_samples(matrix)) return engines::slopes_of_all_samples(problem, matrix, parts);
  std::vector<double> result(v);
  for (auto& x : result) x *= problem.l2();
  const auto sum = torch::from_blob(result.data(), {problem.index().size()}, torch::kFloat64);
  for (std::int64_t b = 0; b < problem.batches(); ++b) {
    const auto products = engines::BatchProduct(problem, b).times(parts);
    for (std::size_t p = 0; p < products.size(); ++p) {
      if (products[p].defined())
        sum.narrow(0, entries[p].offset, entries[p].size).add_(products[p].to_dense().reshape(-1).cpu());
    }
  }
  return result;
}

// Numbers of a problem at other parameters; so many times NaN where it cannot be evaluated there.
template <class Evaluate>
std::vector<double> evaluated_at(const std::vector<double>& place, network::Problem& problem,
                                 const std::vector<double>& theta, std::size_t count, const Evaluate& evaluate) {
  std::vector<double> result(count, std::numeric_limits<double>::quiet_NaN());
  problem.set_parameters(place);
  try {
    result = evaluate();
  } catch (const InputError&) {
    if (place == theta) throw;
  }
  problem.set_parameters(theta);
  return result;
}

// A line through the point along a direction.
struct Direction {
  const Lines& lines;
  const std::vector<double>& v;
  const std::vector<double>& product;  // the matrix's, in the rows

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
  Check(network::Problem& twin, const Twins& twins, Matrix matrix, const network::LossAndGradient& point, double scale,
        const file::DifferenceTolerances& tolerances)
      : twin_(twin),
        twins_(twins),
        matrix_(matrix),
        point_(point),
        scale_(scale),
        tolerances_(tolerances),
        theta_(twin.flat_parameters()),
        length_(std::sqrt(dot(theta_, theta_))),
        here_(network::evaluate(twin)) {}

  // A twin in another precision whose loss is another one, by more than rounding, is another function.
  bool is_of_the_same_function(const Direction& some) const;
  DifferenceFigures along(const Direction& line) const;

 private:
  std::vector<double> on(const Direction& line, double distance) const {
    return moved(theta_, line.lines.columns, line.v, distance);
  }
  // The loss, then numbers whose change along the line is the matrix times v, in its rows.
  std::vector<double> numbers_at(const std::vector<double>& place, const Direction& line) const;
  using Evaluate = std::function<std::vector<double>(const network::Problem&)>;
  // Rounding of what was derived, in the precision in which it was.
  std::vector<double> noise_of_own(const Direction& line, std::size_t count, const Evaluate& evaluate) const;
  Function of_own_nearer_zero(std::size_t count, const Evaluate& evaluate) const;
  Function nearer_zero(const Direction& line, bool loss) const;

  network::Problem& twin_;
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
  const auto at = [&](double distance) {
    return evaluated_at(on(line, distance), own, theta_, count, [&] { return evaluate(own); });
  };
  auto result = noise(at, noise_spacing({length_, twins_.epsilon}));
  if (!twins_.has_casts) return result;
  // What casts round is not all moved along the line: inputs are not.
  const auto with = evaluate(own);
  const auto without = evaluate(twin_);
  for (std::size_t i = 0; i < count; ++i) result[i] = std::max(result[i], std::abs(with[i] - without[i]));
  return result;
}

Function Check::of_own_nearer_zero(std::size_t count, const Evaluate& evaluate) const {
  return [this, count, evaluate](double share) {
    auto& own = twins_.own();
    return evaluated_at(times(share, theta_), own, theta_, count, [&] { return evaluate(own); });
  };
}

// Numbers of the differences, the loss alone or all others.
Function Check::nearer_zero(const Direction& line, bool loss) const {
  return [this, &line, loss](double share) {
    const auto numbers = numbers_at(times(share, theta_), line);
    return loss ? std::vector<double>{numbers.front()} : std::vector<double>(numbers.begin() + 1, numbers.end());
  };
}

bool Check::is_of_the_same_function(const Direction& some) const {
  constexpr double deviations = 10;
  const double difference = std::abs(here_.loss - point_.loss);
  const double allowed = rounding_of_losses(twins_.epsilon) * std::max(std::abs(point_.loss), std::abs(here_.loss));
  if (difference <= allowed) return true;
  const auto loss = [](const network::Problem& own) { return std::vector<double>{network::evaluate(own).loss}; };
  const double lost = lost_digits(of_own_nearer_zero(1, loss), twins_.epsilon);
  return difference <= allowed + deviations * (noise_of_own(some, 1, loss).front() + lost);
}

// Of a Hessian the gradient; of rows of samples what they are derivatives of; else outputs there, pulled back as they
// are at the point.
std::vector<double> Check::numbers_at(const std::vector<double>& place, const Direction& line) const {
  const auto in_rows = [&](double loss, const std::vector<double>& numbers) {
    auto result = line.in_rows(numbers);
    result.insert(result.begin(), loss);
    return result;
  };
  if (matrix_ == Matrix::hessian) {
    if (place == theta_) return in_rows(here_.loss, here_.gradient);
    return evaluated_at(place, twin_, theta_, line.lines.rows.size() + 1, [&] {
      const auto there = network::evaluate(twin_);
      return in_rows(there.loss, there.gradient);
    });
  }
  if (has_rows_of_samples(matrix_)) {
    return evaluated_at(place, twin_, theta_, line.lines.rows.size() + 1, [&] {
      const auto numbers = engines::numbers_of_all_samples(twin_, matrix_);
      return in_rows(place == theta_ ? here_.loss : network::evaluate(twin_).loss, numbers);
    });
  }
  std::vector<torch::Tensor> outputs;
  const auto loss = evaluated_at(place, twin_, theta_, 1, [&] {
    outputs = engines::outputs_of(twin_, matrix_);
    return std::vector<double>{network::evaluate(twin_).loss};
  });
  if (outputs.empty()) return in_rows(loss.front(), std::vector<double>(theta_.size(), loss.front()));  // NaN
  auto numbers = engines::pulled_back(twin_, matrix_, outputs);
  for (std::size_t k = 0; k < numbers.size(); ++k) numbers[k] += twin_.l2() * place[k];
  return in_rows(loss.front(), numbers);
}

DifferenceFigures Check::along(const Direction& line) const {
  if (dot(line.v, line.v) == 0)
    return {{0, tolerances_.gradient, file::CheckOutcome::passed},
            {0, tolerances_.hessian, file::CheckOutcome::passed}};
  std::map<double, std::vector<double>> places;
  const auto at = [&](double distance) -> const std::vector<double>& {
    const auto found = places.find(distance);
    return found != places.end() ? found->second
                                 : places.emplace(distance, numbers_at(on(line, distance), line)).first->second;
  };
  const auto loss = [&](double distance) { return std::vector<double>{at(distance).front()}; };
  const auto rows = [&](double distance) { return std::vector<double>(at(distance).begin() + 1, at(distance).end()); };
  const Evaluate own_slope = [&](const network::Problem& own) {
    return std::vector<double>{dot(part_of(network::evaluate(own).gradient, line.lines.columns), line.v)};
  };
  const Evaluate own_rows = [&](const network::Problem& own) {
    return line.in_rows(matrix_times(own, matrix_, line.widened(theta_.size())));
  };
  const auto count = line.lines.rows.size();
  const auto lost = [&](const Evaluate& own, std::size_t numbers, bool is_loss) {
    return lost_digits(of_own_nearer_zero(numbers, own), twins_.epsilon) +
           lost_by_differences(nearer_zero(line, is_loss), length_);
  };
  const double slope = dot(part_of(point_.gradient, line.lines.columns), line.v);
  // A slope along a random line is about so much.
  const double typical = std::sqrt(dot(point_.gradient, point_.gradient) / static_cast<double>(theta_.size()));
  const Ruler ruler{length_, &twin_ == &twins_.float64 ? std::numeric_limits<double>::epsilon() : twins_.epsilon};
  const auto slope_at = [&](double distance) {
    return evaluated_at(on(line, distance), twin_, theta_, 1, [&] { return own_slope(twin_); });
  };
  const Derivative of_loss{
      {slope}, [&] { return noise_of_own(line, 1, own_slope); }, [&] { return lost(own_slope, 1, true); }, slope_at};
  const Derivative of_rows{line.product, [&] { return noise_of_own(line, count, own_rows); },
                           [&] { return lost(own_rows, count, false); }};
  return {compare(of_loss, loss, ruler, typical, tolerances_.gradient),
          compare(of_rows, rows, ruler, scale_, tolerances_.hessian)};
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

namespace {

DifferenceFigures figures(const Check& check, const std::vector<Lines>& lines) {
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

}  // namespace

DifferenceFigures check_differences(const Twins& twins, Matrix matrix, const network::LossAndGradient& point,
                                    const std::vector<Lines>& lines, double scale,
                                    const file::DifferenceTolerances& tolerances) {
  const file::DifferenceTolerances allowed{at_least_rounding(tolerances.gradient, twins.epsilon),
                                           at_least_rounding(tolerances.hessian, twins.epsilon)};
  const auto found_with = [&](network::Problem& twin) {
    return figures({twin, twins, matrix, point, scale, allowed}, lines);
  };
  const auto found = found_with(twins.float64);
  const bool is_another_function = found.gradient.outcome == file::CheckOutcome::not_made;
  return twins.has_casts && is_another_function ? found_with(twins.with_casts()) : found;
}

}  // namespace hessian_mpi::run
