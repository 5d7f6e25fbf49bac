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
#include "hessian_mpi/products/shared_sum.hpp"
#include "hessian_mpi/ranks/spread_vectors.hpp"
#include "hessian_mpi/run/derivative_check.hpp"

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
  Numbers place(double distance) const {
    auto moved = theta_;
    for (std::size_t k = 0; k < moved.size(); ++k) moved[k] += distance * direction_[k];
    return moved;
  }

  // Collective. NaN where it cannot be evaluated.
  Numbers at(double distance) const {
    try {
      auto numbers = twin_.matrix() == Matrix::hessian ? gradient_at(distance) : outputs_at(distance);
      twin_.set_parameters(theta_);
      return numbers;
    } catch (const ranks::AgreedError& error) {
      twin_.set_parameters(theta_);
      if (error.code() != ExitCode::bad_input || distance == 0) throw;
      return Numbers(theta_.size(), std::numeric_limits<double>::quiet_NaN());
    }
  }

  // Collective. What is multiplied with in the precision of `problem`, at a place of the line.
  Numbers product_at(network::Problem& problem, double distance) const {
    problem.set_parameters(place(distance));
    NetworkProduct product(problem, 0, communicator_);
    return whole_product(product);
  }
  Numbers whole_product(NetworkProduct& product) const {
    const auto& own = product.own();
    Numbers numbers(static_cast<std::size_t>(own.count()));
    product.multiply(direction_.data() + own.begin, 1, numbers.data(), between_);
    return ranks::whole_vectors(numbers.data(), 1, own, product.size(), communicator_);
  }

 private:
  Numbers gradient_at(double distance) const {
    twin_.set_parameters(place(distance));
    return evaluate(twin_, between_, communicator_).gradient;
  }
  // J^T A at the point, of outputs at the place.
  Numbers outputs_at(double distance) const {
    const auto n = twin_.index().size();
    const auto moved = place(distance);
    const auto make = [&](std::int64_t batch, std::int64_t) {
      twin_.set_parameters(moved);
      const auto y = engines::output_map(twin_, twin_.matrix(), batch).y.detach();
      twin_.set_parameters(theta_);
      return flat(twin_, engines::pulled_back(twin_, twin_.matrix(), batch, y));
    };
    const auto own = sum_over_batches({twin_.batches(), 1, n, make}, between_, communicator_);
    const auto here = elements_of_rank(n, communicator_.rank(), communicator_.size());
    auto numbers = ranks::whole_vectors(own.data(), 1, here, n, communicator_);
    for (std::size_t k = 0; k < numbers.size(); ++k) numbers[k] += twin_.l2() * moved[k];
    return numbers;
  }

  network::Problem& twin_;
  Numbers theta_;
  Numbers direction_;
  const std::function<void()>& between_;
  const ranks::Communicator& communicator_;
};

// Collective.
file::CheckFigure compare_along(const Line& line, NetworkProduct& product, Precision precision,
                                const std::function<network::Problem(Precision)>& twin,
                                const ranks::Communicator& communicator) {
  const auto found = line.whole_product(product);
  const auto sample = sample_of(found);
  const auto noise = [&] {
    auto own = communicator.together([&] { return twin(precision); });
    return run::noise([&](double distance) { return elements(line.product_at(own, distance), sample); },
                      run::noise_spacing(line.length()));
  };
  return run::compare(
      {elements(found, sample), noise}, [&](double distance) { return elements(line.at(distance), sample); },
      line.length(), 0, file::tolerances_of(precision).difference.hessian);
}

// Collective. In float64; nothing where there is no such problem, or it is another function.
std::optional<network::Problem> float64_twin(const network::LossAndGradient& point,
                                             const std::function<network::Problem(Precision)>& twin,
                                             const std::function<void()>& between,
                                             const ranks::Communicator& communicator, std::string& warning) {
  constexpr double rounding_of_float32 = 1e-3;
  try {
    auto made = communicator.together([&] { return twin(Precision::float64); });
    const auto loss = evaluate(made, between, communicator).loss;
    if (std::abs(loss - point.loss) <= rounding_of_float32 * std::max(std::abs(loss), std::abs(point.loss)))
      return made;
    warning =
        "products are not checked: the loss in float64 is another one, as where a network draws random numbers of its "
        "own; --dtype float64 makes the check";
  } catch (const ranks::AgreedError& error) {
    if (error.code() != ExitCode::bad_input) throw;
    warning = text("products are not checked: the network does not run in float64: ", error.what());
  }
  return std::nullopt;
}

}  // namespace

ProductCheck check_product(NetworkProduct& product, const network::Problem& problem,
                           const network::LossAndGradient& point,
                           const std::function<network::Problem(Precision)>& twin, const std::function<void()>& between,
                           const ranks::Communicator& communicator) {
  ProductCheck check;
  auto made = float64_twin(point, twin, between, communicator, check.warning);
  auto direction = random_direction(product.size());
  if (made) {
    check.figure =
        compare_along({*made, direction, between, communicator}, product, problem.precision(), twin, communicator);
    const bool constants = std::find(point.gradient.begin(), point.gradient.end(), 0.0) != point.gradient.end();
    if (check.figure.outcome == file::CheckOutcome::failed && constants) {
      auto less = direction;
      for (std::size_t k = 0; k < less.size(); ++k) less[k] = point.gradient[k] == 0 ? 0 : less[k];
      const auto without =
          compare_along({*made, less, between, communicator}, product, problem.precision(), twin, communicator);
      if (without.outcome != file::CheckOutcome::failed) {
        check.figure = without;
        check.warning =
            "the loss changes with some of the parameters whose gradient is exactly zero: autograd takes them for "
            "constants, as it does with padding_idx of an embedding, and their rows are zero";
      }
    }
  }
  const Stopwatch watch;
  const auto& own = product.own();
  Numbers ignored(static_cast<std::size_t>(own.count()));
  product.multiply(direction.data() + own.begin, 1, ignored.data(), between);
  check.seconds = communicator.max(watch.seconds());
  if (check.figure.outcome == file::CheckOutcome::kinks) {
    check.warning = text(
        "products are not checked: this point lies at a kink of the loss (ReLU, max-pool, abs), whose "
        "sides differ by ",
        check.figure.error, "; the matrix is that of the side autograd takes");
  }
  return check;
}

}  // namespace hessian_mpi::products
