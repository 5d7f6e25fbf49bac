#include "hessian_mpi/products/product_check.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <random>

#include "flat_vector.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/engines/jacobian_rows.hpp"
#include "hessian_mpi/network/rounding.hpp"
#include "hessian_mpi/products/shared_sum.hpp"
#include "hessian_mpi/ranks/spread_vectors.hpp"
#include "hessian_mpi/run/derivative_check.hpp"
#include "hessian_mpi/run/verdict.hpp"

namespace hessian_mpi::products {
namespace {

using Numbers = std::vector<double>;

// Of length 1, its numbers all equal but for their signs.
Numbers random_direction(std::int64_t n) {
  constexpr std::uint64_t seed = 20260611;
  std::mt19937_64 random(seed);
  Numbers v(static_cast<std::size_t>(n));
  for (auto& x : v) x = ((random() & 1) != 0 ? 1 : -1) / std::sqrt(static_cast<double>(n));
  return v;
}

// Elements to look at: some at equal distances, and where the product is largest.
std::vector<std::size_t> sample_of(const Numbers& product) {
  constexpr std::size_t at_equal_distances = 1000;
  constexpr std::size_t largest = 64;
  const auto n = product.size();
  std::vector<std::size_t> all(n);
  std::iota(all.begin(), all.end(), std::size_t{0});
  const auto end = all.begin() + static_cast<std::ptrdiff_t>(std::min(n, largest));
  std::partial_sort(all.begin(), end, all.end(),
                    [&](auto i, auto j) { return std::abs(product[i]) > std::abs(product[j]); });
  std::vector<std::size_t> sample(all.begin(), end);
  const auto count = std::min(n, at_equal_distances);
  for (std::size_t k = 0; k < count; ++k) sample.push_back(k * n / count);
  return sample;
}

Numbers elements(const Numbers& numbers, const std::vector<std::size_t>& sample) {
  Numbers some;
  for (const auto i : sample) some.push_back(numbers[i]);
  return some;
}

// A line through the point, and what changes along it as the matrix says.
class Line {
 public:
  Line(network::Problem& twin, Numbers direction, const std::function<void()>& between,
       const ranks::Communicator& communicator)
      : twin_(twin),
        theta_(twin.flat_parameters()),
        direction_(std::move(direction)),
        between_(between),
        communicator_(communicator) {}

  double length() const { return std::sqrt(std::inner_product(theta_.begin(), theta_.end(), theta_.begin(), 0.0)); }
  Numbers nearer_zero(double share) const {
    auto place = theta_;
    for (double& x : place) x *= share;
    return place;
  }
  Numbers on(double distance) const {
    auto moved = theta_;
    for (std::size_t k = 0; k < moved.size(); ++k) moved[k] += distance * direction_[k];
    return moved;
  }

  // Collective. NaN where it cannot be evaluated.
  Numbers at(const Numbers& place) const {
    return unless_not_evaluable(
        place, [&] { return twin_.matrix() == Matrix::hessian ? gradient_at(place) : outputs_at(place); });
  }

  // Collective. What is multiplied with in the precision of `problem`.
  Numbers product_at(const Numbers& place, network::Problem& problem) const {
    return unless_not_evaluable(place, [&] {
      problem.set_parameters(place);
      NetworkProduct product(problem, 0, communicator_);
      return whole_product(product);
    });
  }
  Numbers product_of_twin() const { return product_at(theta_, twin_); }
  Numbers whole_product(NetworkProduct& product) const {
    const auto& own = product.own();
    Numbers numbers(static_cast<std::size_t>(own.count()));
    product.multiply(direction_.data() + own.begin, 1, numbers.data(), between_);
    return ranks::whole_vectors(numbers.data(), 1, own, product.size(), communicator_);
  }

 private:
  template <class Evaluate>
  Numbers unless_not_evaluable(const Numbers& place, const Evaluate& evaluate) const {
    Numbers numbers(theta_.size(), std::numeric_limits<double>::quiet_NaN());
    try {
      numbers = evaluate();
    } catch (const ranks::AgreedError& error) {
      if (error.code() != ExitCode::bad_input || place == theta_) throw;
    }
    twin_.set_parameters(theta_);
    return numbers;
  }
  Numbers gradient_at(const Numbers& place) const {
    twin_.set_parameters(place);
    return evaluate(twin_, between_, communicator_).gradient;
  }
  // J^T A at the point, of outputs at the place.
  Numbers outputs_at(const Numbers& place) const {
    const auto n = twin_.index().size();
    const auto make = [&](std::int64_t batch, std::int64_t, double* made) {
      twin_.set_parameters(place);
      const auto y = engines::output_map(twin_, twin_.matrix(), batch).y.detach();
      twin_.set_parameters(theta_);
      flatten(twin_, engines::pulled_back(twin_, twin_.matrix(), batch, y), made);
    };
    const auto here = elements_of_rank(n, communicator_.rank(), communicator_.size());
    Numbers numbers(static_cast<std::size_t>(n));
    sum_over_batches<double>({twin_.batches(), 1, n, make}, numbers.data() + here.begin, between_, communicator_);
    ranks::complete_vectors(numbers.data(), 1, here, n, communicator_);
    for (std::size_t k = 0; k < numbers.size(); ++k) numbers[k] += twin_.l2() * place[k];
    return numbers;
  }

  network::Problem& twin_;
  Numbers theta_;
  Numbers direction_;
  const std::function<void()>& between_;
  const ranks::Communicator& communicator_;
};

constexpr const char* another_function =
    "products are not checked: the loss in float64 is another one, as where a network draws random numbers of its own; "
    "--dtype float64 makes the check";
constexpr const char* are_constants =
    "the loss changes with some of the parameters whose gradient is exactly zero: autograd takes them for constants, "
    "as "
    "it does with padding_idx of an embedding, and their rows are zero";

// The products of a problem, and what tells of their rounding.
struct Products {
  NetworkProduct& product;
  const network::Problem& problem;
  const network::LossAndGradient& point;
  const run::MakeTwin& twin;
  const std::function<void()>& between;
  const ranks::Communicator& communicator;
  Precision precision;
  double epsilon;  // of the narrowest numbers that are computed with

  // Collective.
  network::Problem made(Precision wanted, run::NarrowCasts casts) const {
    return communicator.together([&] { return twin(wanted, casts); });
  }
  bool has_casts() const { return epsilon > run::epsilon_of(precision); }
  double loss_of(const network::Problem& of) const { return evaluate(of, between, communicator).loss; }
};

// Collective. Whether two losses differ by no more than rounding.
bool is_of_the_same_function(const Products& products, const Line& line, double loss_of_twin) {
  constexpr double deviations = 10;
  const double loss = products.point.loss;
  const double difference = std::abs(loss_of_twin - loss);
  const double rounding = run::rounding_of_losses(products.epsilon);
  const double allowed = rounding * std::max(std::abs(loss_of_twin), std::abs(loss));
  if (difference <= allowed) return true;
  auto own = products.made(products.precision, run::NarrowCasts::kept);
  const auto loss_at = [&](const Numbers& place) {
    own.set_parameters(place);
    try {
      return Numbers{products.loss_of(own)};
    } catch (const ranks::AgreedError& error) {
      if (error.code() != ExitCode::bad_input) throw;
      return Numbers{std::numeric_limits<double>::quiet_NaN()};
    }
  };
  const auto noise = run::noise([&](double distance) { return loss_at(line.on(distance)); },
                                run::noise_spacing({line.length(), products.epsilon}));
  const double lost =
      run::lost_digits([&](double share) { return loss_at(line.nearer_zero(share)); }, products.epsilon);
  return difference <= allowed + deviations * (noise.front() + lost);
}

// Collective. with_casts: the line's numbers are computed with those of the product.
file::CheckFigure compare_along(const Products& products, const Line& line, bool with_casts) {
  const auto found = line.whole_product(products.product);
  const auto sample = sample_of(found);
  const run::Ruler ruler{line.length(), products.epsilon};
  std::optional<network::Problem> made;
  const auto product_at = [&](const Numbers& place) {
    if (!made) made.emplace(products.made(products.precision, run::NarrowCasts::kept));
    return elements(line.product_at(place, *made), sample);
  };
  const auto numbers_at = [&](const Numbers& place) { return elements(line.at(place), sample); };
  const auto noise = [&] {
    auto of_product =
        run::noise([&](double distance) { return product_at(line.on(distance)); }, run::noise_spacing(ruler));
    if (!products.has_casts()) return of_product;
    const auto own = product_at(line.on(0));
    const auto twin = elements(line.product_of_twin(), sample);
    for (std::size_t k = 0; k < own.size(); ++k) of_product[k] = std::max(of_product[k], std::abs(own[k] - twin[k]));
    return of_product;
  };
  const auto lost = [&] {
    const auto product = [&](double share) { return product_at(line.nearer_zero(share)); };
    const auto numbers = [&](double share) { return numbers_at(line.nearer_zero(share)); };
    return run::lost_digits(product, products.epsilon) + run::lost_by_differences(numbers, line.length());
  };
  const double epsilon = with_casts ? products.epsilon : std::numeric_limits<double>::epsilon();
  const double tolerance = file::tolerances_of(products.precision).difference.hessian;
  return run::compare(
      {elements(found, sample), noise, lost}, [&](double distance) { return numbers_at(line.on(distance)); },
      {line.length(), epsilon}, 0, run::at_least_rounding(tolerance, products.epsilon));
}

// Collective. With differences in float64, the network's casts widened or kept. Not made where there is no such
// problem, or it is another function.
ProductCheck check_with(const Products& products, run::NarrowCasts casts) {
  const auto& [product, problem, point, twin, between, communicator, precision, epsilon] = products;
  ProductCheck check;
  try {
    auto made = products.made(Precision::float64, casts);
    auto direction = random_direction(product.size());
    const Line line(made, direction, between, communicator);
    if (!is_of_the_same_function(products, line, products.loss_of(made))) {
      check.warning = another_function;
      return check;
    }
    const bool with_casts = casts == run::NarrowCasts::kept;
    check.figure = compare_along(products, line, with_casts);
    const auto gradient = run::gradient_by_graph(problem, point);
    const bool constants = std::find(gradient.begin(), gradient.end(), 0.0) != gradient.end();
    if (check.figure.outcome != file::CheckOutcome::failed || !constants) return check;
    for (std::size_t k = 0; k < direction.size(); ++k) direction[k] = gradient[k] == 0 ? 0 : direction[k];
    const auto without = compare_along(products, {made, direction, between, communicator}, with_casts);
    if (without.outcome != file::CheckOutcome::failed) check = {without, are_constants};
  } catch (const ranks::AgreedError& error) {
    if (error.code() != ExitCode::bad_input) throw;
    check.warning = text("products are not checked: the network does not run in float64: ", error.what());
  }
  return check;
}

// Collective. Of a product; that of the check has made the graphs that are kept.
double seconds_of(NetworkProduct& product, const std::function<void()>& between,
                  const ranks::Communicator& communicator) {
  const auto& own = product.own();
  const auto direction = random_direction(product.size());
  Numbers ignored(static_cast<std::size_t>(own.count()));
  const Stopwatch watch;
  product.multiply(direction.data() + own.begin, 1, ignored.data(), between);
  return communicator.max(watch.seconds());
}

}  // namespace

ProductCheck check_product(NetworkProduct& product, const network::Problem& problem,
                           const network::LossAndGradient& point, const run::MakeTwin& twin,
                           const std::function<void()>& between, const ranks::Communicator& communicator) {
  const double epsilon = communicator.together([&] { return network::coarsest_epsilon(problem); });
  const Products products{product, problem, point, twin, between, communicator, problem.precision(), epsilon};
  auto check = check_with(products, run::NarrowCasts::widened);
  if (check.figure.outcome == file::CheckOutcome::not_made && products.has_casts()) {
    check = check_with(products, run::NarrowCasts::kept);
  }
  check.epsilon = epsilon;
  check.seconds = seconds_of(product, between, communicator);
  if (check.figure.outcome == file::CheckOutcome::kinks) {
    check.warning = text(
        "products are not checked: this point lies at a kink of the loss (ReLU, max-pool, abs), whose "
        "sides differ by ",
        check.figure.error, "; the matrix is that of the side autograd takes");
  }
  return check;
}

}  // namespace hessian_mpi::products
