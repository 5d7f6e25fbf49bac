#include "hessian_mpi/run/derivative_check.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace hessian_mpi::run {
namespace {

using Numbers = std::vector<double>;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr int noise_places = 9;
constexpr double beyond_chance = 5;  // by what two measurements of a noise do not differ
// Steps, each a tenth of the one before; the first to be tried is the one that suits float64.
constexpr std::size_t larger_steps = 4;
constexpr std::size_t smaller_steps = 3;
constexpr std::size_t all_steps = larger_steps + 1 + smaller_steps;
constexpr double ratio = 10;
constexpr std::size_t extrapolations = 3;
// So many standard deviations, and so much of the last change of an extrapolation, may come of themselves.
constexpr double safety = 3;
constexpr double noise_of_difference = 2;  // noise on both sides, rare cases, divided by two steps
constexpr double noise_of_derivative = 3;
// What a contradiction is in standard deviations of the noise and as a share of an error at least.
constexpr double clear_of_noise = 20;
constexpr double contradiction = 0.1;

// From large to small.
std::array<double, all_steps> steps_of(double length) {
  std::array<double, all_steps> steps{};
  const double first = std::cbrt(std::numeric_limits<double>::epsilon()) * std::max(1.0, length);
  for (std::size_t j = 0; j < all_steps; ++j) {
    steps[j] = first * std::pow(ratio, static_cast<double>(larger_steps) - static_cast<double>(j));
  }
  return steps;
}

// The place value of the last bit that is set.
double last_bit(double number) {
  if (number == 0 || !std::isfinite(number)) return infinity;
  int exponent = 0;
  auto whole = static_cast<std::int64_t>(std::ldexp(std::frexp(number, &exponent), 53));
  const auto bit = static_cast<double>(whole & -whole);
  return std::ldexp(bit, exponent - 53);
}

// Half a step of the grid that all values lie on; not more than bfloat16's, which short numbers have by chance.
double rounding_of(const Numbers& values) {
  constexpr double precision_of_bfloat16 = 1.0 / 256;
  double grid = infinity;
  double largest = 0;
  for (const double x : values) {
    grid = std::min(grid, last_bit(x));
    largest = std::max(largest, std::abs(x));
  }
  return 0.3 * std::min(grid, precision_of_bfloat16 * largest);
}

double noise_of(Numbers values) {
  constexpr int order = 4;
  constexpr double variance_of_differences = 70;  // the binomial coefficient of 2 * order over order
  const double rounding = rounding_of(values);
  for (int k = 0; k < order; ++k) {
    for (std::size_t j = 0; j + 1 < values.size(); ++j) values[j] = values[j + 1] - values[j];
    values.pop_back();
  }
  double squares = 0;
  for (const double x : values) squares += x * x;
  if (!std::isfinite(squares)) return infinity;
  return std::max(rounding, std::sqrt(squares / static_cast<double>(values.size()) / variance_of_differences));
}

// Derivatives, each with what it may be wrong by.
struct Estimates {
  Numbers values;
  Numbers uncertainties;
};

class Comparison {
 public:
  Comparison(const Derivative& derivative, const Function& f, const Ruler& ruler, double scale, double tolerance)
      : derivative_(derivative),
        f_(f),
        ruler_(ruler),
        scale_(scale),
        tolerance_(tolerance),
        here_(f(0)),
        steps_(steps_of(ruler.length)) {}

  file::CheckFigure figure();

 private:
  std::size_t size() const { return here_.size(); }
  double difference(std::size_t i, const Numbers& found) const { return std::abs(derivative_.numbers[i] - found[i]); }
  double error(const Numbers& found) const;
  double scale(const Numbers& found) const;
  void take(std::size_t j);
  Estimates estimates() const;
  bool shows_kink(std::size_t i, double least) const;
  bool agree(const Numbers& some, const Numbers& others) const;
  bool is_right_at(double place) const;
  bool is_right_beside() const;

  const Derivative& derivative_;
  const Function& f_;
  Ruler ruler_;
  double scale_;
  double tolerance_;
  Numbers here_;
  Numbers noise_;
  double largest_noise_ = 0;
  std::array<double, all_steps> steps_;
  std::array<Numbers, all_steps> central_;
  std::array<Numbers, all_steps> contradictions_;  // of forward and backward differences
};

double Comparison::scale(const Numbers& found) const {
  double largest = scale_;
  for (std::size_t i = 0; i < size(); ++i) {
    largest = std::max({largest, std::abs(derivative_.numbers[i]), std::abs(found[i])});
  }
  return largest;
}

double Comparison::error(const Numbers& found) const {
  double worst = 0;
  for (std::size_t i = 0; i < size(); ++i) {
    if (!std::isfinite(difference(i, found))) return infinity;
    worst = std::max(worst, difference(i, found));
  }
  return worst > 0 ? worst / scale(found) : 0;
}

void Comparison::take(std::size_t j) {
  const auto behind = f_(-steps_[j]);
  const auto ahead = f_(steps_[j]);
  for (std::size_t i = 0; i < size(); ++i) {
    central_[j].push_back((ahead[i] - behind[i]) / (2 * steps_[j]));
    contradictions_[j].push_back(std::abs((ahead[i] - here_[i]) - (here_[i] - behind[i])) / steps_[j]);
  }
}

// Richardson's extrapolation. How much the last step to a smaller one has changed is what truncation is taken to be, of
// all numbers alike: for a single one it may be small by chance.
Estimates Comparison::estimates() const {
  Estimates best{Numbers(size(), 0), Numbers(size(), infinity)};
  std::array<std::array<Numbers, extrapolations>, all_steps> table;
  std::array<double, extrapolations> changes_before;
  changes_before.fill(0);
  double power = 1;
  for (std::size_t j = 0; j < all_steps; ++j) {
    table[j][0] = central_[j];
    power = 1;
    for (std::size_t k = 0; k <= std::min(j, extrapolations - 1); ++k, power *= ratio * ratio) {
      auto& values = table[j][k];
      for (std::size_t i = 0; k > 0 && i < size(); ++i) {
        values.push_back(table[j][k - 1][i] + (table[j][k - 1][i] - table[j - 1][k - 1][i]) / (power - 1));
      }
      if (k == j) continue;
      double change = 0;
      for (std::size_t i = 0; i < size(); ++i) {
        const double of_number = std::abs(values[i] - table[j - 1][k][i]);
        if (std::isnan(of_number)) change = infinity;
        change = std::max(change, of_number);
      }
      const double truncation = std::max(change, changes_before[k] / (power * ratio * ratio));
      changes_before[k] = std::isfinite(change) ? change : 0;
      for (std::size_t i = 0; i < size(); ++i) {
        const double uncertainty = truncation + noise_of_difference * noise_[i] / steps_[j];
        if (!std::isfinite(values[i]) || !(uncertainty < best.uncertainties[i])) continue;
        best.values[i] = values[i];
        best.uncertainties[i] = uncertainty;
      }
    }
  }
  return best;
}

// What contradicts itself shrinks with the step in a smooth function, stays at a kink, and grows at a jump. A jump that
// float32 has between two of its numbers is rounding.
bool Comparison::shows_kink(std::size_t i, double least) const {
  constexpr double growth = 3;
  constexpr double numbers_of_float32 = 1e-6;
  double largest = 0;
  for (const double x : here_) largest = std::max(largest, std::abs(x));
  for (std::size_t j = larger_steps; j + 2 < all_steps; ++j) {
    const auto of_step = [&](std::size_t later) { return contradictions_[j + later][i]; };
    if (of_step(1) < of_step(0) / 2 || of_step(2) < of_step(1) / 2 || of_step(2) < least) continue;
    const double change = of_step(2) * steps_[j + 2];
    if (of_step(2) > growth * of_step(0) && change < numbers_of_float32 * largest) continue;
    if (change >= clear_of_noise * largest_noise_) return true;
  }
  return false;
}

bool Comparison::agree(const Numbers& some, const Numbers& others) const {
  for (std::size_t i = 0; i < size(); ++i) {
    const double largest = std::max({std::abs(some[i]), std::abs(others[i]), scale_});
    if (!(std::abs(some[i] - others[i]) <= tolerance_ * largest)) return false;
  }
  return true;
}

bool Comparison::is_right_at(double place) const {
  constexpr double share_of_place = 0.125;
  const double step = share_of_place * std::abs(place);
  const auto behind = f_(place - step);
  const auto ahead = f_(place + step);
  Numbers found;
  for (std::size_t i = 0; i < size(); ++i) found.push_back((ahead[i] - behind[i]) / (2 * step));
  return agree(derivative_.at(place), found);
}

// Whether only the point itself is one where the derivative is not that of f. Where many units lie at their kinks, as
// behind weights that begin as zero, the two sides may differ by less than either from what autograd takes.
bool Comparison::is_right_beside() const {
  constexpr std::array shares_of_length{1e-5, 1e-6, 1e-7};  // others' kinks are not near all of them
  if (!derivative_.at || !agree(derivative_.numbers, derivative_.at(0))) return false;
  const auto on_side = [&](double side) {
    return std::any_of(shares_of_length.begin(), shares_of_length.end(),
                       [&](double share) { return is_right_at(side * share * std::max(1.0, ruler_.length)); });
  };
  return on_side(-1) && on_side(1);
}

file::CheckFigure Comparison::figure() {
  double closest = infinity;
  for (std::size_t j = larger_steps; j < all_steps; ++j) {
    take(j);
    closest = error(central_[j]);
    if (closest <= tolerance_) return {closest, tolerance_, file::CheckOutcome::passed};
  }
  if (!std::isfinite(closest)) return {infinity, tolerance_, file::CheckOutcome::failed};
  noise_ = noise(f_, noise_spacing(ruler_));
  largest_noise_ = *std::max_element(noise_.begin(), noise_.end());
  for (std::size_t j = 0; j < larger_steps; ++j) take(j);
  const auto found = estimates();
  const double relative_to = scale(found.values);
  const double worst = error(found.values);
  if (worst <= tolerance_) return {worst, tolerance_, file::CheckOutcome::passed};
  const auto noise_here = derivative_.noise();
  double allowed = tolerance_;
  bool explained = true;
  bool kinks = false;
  for (std::size_t i = 0; i < size(); ++i) {
    const double here = difference(i, found.values) / relative_to;
    if (here <= tolerance_) continue;
    const double margin = safety * (found.uncertainties[i] + noise_of_derivative * noise_here[i]) / relative_to;
    explained = explained && here <= margin;
    allowed = std::max(allowed, margin);
    kinks = kinks || shows_kink(i, contradiction * worst * relative_to);
  }
  if (kinks) return {worst, tolerance_, file::CheckOutcome::kinks};
  if (!explained) {
    const double lost = safety * derivative_.lost() / relative_to;
    if (worst <= lost) return {worst, lost, file::CheckOutcome::rounding};
    return {worst, tolerance_, is_right_beside() ? file::CheckOutcome::kinks : file::CheckOutcome::failed};
  }
  return {worst, allowed,
          allowed <= file::largest_tolerance ? file::CheckOutcome::passed : file::CheckOutcome::rounding};
}

}  // namespace

std::vector<double> noise(const Function& f, double spacing) {
  const auto here = f(0);
  std::array<Numbers, 2> of_sides;
  for (const std::size_t side : {0U, 1U}) {
    std::vector<Numbers> places{here};
    for (int j = 1; j < noise_places; ++j) places.push_back(f((side == 0 ? j : -j) * spacing));
    for (std::size_t i = 0; i < here.size(); ++i) {
      Numbers values;
      for (const auto& place : places) values.push_back(place[i]);
      of_sides[side].push_back(noise_of(std::move(values)));
    }
  }
  Numbers result;
  double squares = 0;
  for (std::size_t i = 0; i < here.size(); ++i) {
    const auto [less, more] = std::minmax(of_sides[0][i], of_sides[1][i]);
    result.push_back(more > beyond_chance * less ? less : std::hypot(less, more) / std::sqrt(2));
    squares += result.back() * result.back();
  }
  // A few differences may be small by chance, those of all numbers are not.
  const double typical = std::sqrt(squares / static_cast<double>(here.size()));
  for (double& x : result) x = std::max(x, typical / beyond_chance);
  return result;
}

double noise_spacing(const Ruler& ruler) {
  constexpr double beyond_float32 = 1e-5;
  constexpr double steps_of_rounding = 2;
  return std::max(beyond_float32, steps_of_rounding * ruler.epsilon) * std::max(1.0, ruler.length);
}

file::CheckFigure compare(const Derivative& derivative, const Function& f, const Ruler& ruler, double scale,
                          double tolerance) {
  return Comparison(derivative, f, ruler, scale, tolerance).figure();
}

double epsilon_of(Precision precision) {
  return precision == Precision::float32 ? std::numeric_limits<float>::epsilon()
                                         : std::numeric_limits<double>::epsilon();
}

double rounding_of_losses(double epsilon) {
  constexpr double of_float32 = 1e-3;
  return at_least_rounding(of_float32, epsilon);
}

double at_least_rounding(double tolerance, double epsilon) {
  constexpr double epsilons = 3;
  return std::max(tolerance, std::min(epsilons * epsilon, file::largest_tolerance));
}

double lost_digits(const Function& at, double epsilon) {
  double largest = 0;
  for (const double share : {0.5, 0.1, 1e-2, 1e-3}) {
    for (const double x : at(share)) largest = std::isfinite(x) ? std::max(largest, std::abs(x)) : largest;
  }
  return epsilon * largest;
}

double lost_by_differences(const Function& at, double length) {
  return lost_digits(at, std::numeric_limits<double>::epsilon()) / steps_of(length).front();
}

}  // namespace hessian_mpi::run
