#include "hessian_mpi/jacobian_factors.hpp"

#include <torch/csrc/autograd/autograd.h>
#include <torch/torch.h>

#include <algorithm>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "flat_row.hpp"
#include "hessian_mpi/output_map.hpp"
#include "hessian_mpi/partition.hpp"
#include "hessian_mpi/together_until_done.hpp"
#include "layer_factors/tile.hpp"

namespace hessian_mpi {
namespace {

using torch::Tensor;

constexpr std::int64_t panel_bytes = 256 << 10;  // half of a core's second cache

template <class Number>
constexpr auto dtype_of_number = std::is_same_v<Number, float> ? torch::kFloat32 : torch::kFloat64;

// The outputs of the batch whose rows of J are being derived.
struct BatchOutputs {
  std::size_t batch = 0;
  std::optional<OutputMap> map = {};
  Tensor cotangent = {};
};

// One number of A that is not zero.
template <class Number>
struct Weight {
  std::int64_t output;
  Number value;
};

template <class Number>
class Factors {
 public:
  Factors(const Problem& problem, Matrix matrix, const Communicator& communicator, const std::function<void()>& between)
      : problem_(problem), n_(problem.index().size()) {
    communicator.together([&] { count_outputs(matrix); });
    jacobian_.resize(static_cast<std::size_t>(begins_.back() * n_));
    std::vector<std::int64_t> bytes{0};
    for (int rank = 0; rank < communicator.size(); ++rank) {
      bytes.push_back(begins_.back() * (rank + 1) / communicator.size() * n_ *
                      static_cast<std::int64_t>(sizeof(Number)));
    }
    const Rows own{begins_.back() * communicator.rank() / communicator.size(),
                   begins_.back() * (communicator.rank() + 1) / communicator.size()};
    BatchOutputs at_hand;
    const auto derive_next = [&](std::size_t done) {
      derive(matrix, own.begin + static_cast<std::int64_t>(done), at_hand);
      return std::size_t{1};
    };
    const auto go_on = [&] {
      between();
      return true;
    };
    together_until_done(static_cast<std::size_t>(own.count()), derive_next, go_on, communicator);
    communicator.complete(reinterpret_cast<char*>(jacobian_.data()), bytes);
  }

  std::int64_t outputs() const { return begins_.back(); }

  template <class Out>
  void multiply(const Rows& rows, const Rows& columns, Out* out);

 private:
  void count_outputs(Matrix matrix);
  void derive(Matrix matrix, std::int64_t k, BatchOutputs& at_hand);
  void weigh(const OutputMap& map, std::int64_t first);
  const Number* row(std::int64_t output) const { return jacobian_.data() + output * n_; }

  const Problem& problem_;
  std::int64_t n_;
  std::vector<std::int64_t> begins_{0};               // of each batch among all outputs, and the end
  std::vector<Number> jacobian_;                      // [K][N]
  std::vector<std::vector<Weight<Number>>> weights_;  // for each output
  std::vector<Number> left_;                          // (A J)[:, rows]
  Strips<Number> panel_;
};

template <class Number>
void Factors<Number>::count_outputs(Matrix matrix) {
  for (std::int64_t b = 0; b < problem_.batches(); ++b) {
    const auto map = output_map(problem_, matrix, b);
    begins_.push_back(begins_.back() + map.y.numel());
    weigh(map, begins_[static_cast<std::size_t>(b)]);
  }
}

// A of a batch, whose outputs begin with `first`.
template <class Number>
void Factors<Number>::weigh(const OutputMap& map, std::int64_t first) {
  const auto count = map.y.numel();
  const Tensor unit = torch::zeros_like(map.y).detach();
  for (std::int64_t k = 0; k < count; ++k) {
    set_element(unit, k, 1);
    const Tensor products = map.times(unit).detach().to(at::kCPU, dtype_of_number<Number>).contiguous();
    set_element(unit, k, 0);
    const auto* number = products.template const_data_ptr<Number>();
    auto& weights = weights_.emplace_back();
    for (std::int64_t other = 0; other < count; ++other) {
      if (number[other] != 0) weights.push_back({first + other, number[other]});
    }
  }
}

// Row k of J.
template <class Number>
void Factors<Number>::derive(Matrix matrix, std::int64_t k, BatchOutputs& at_hand) {
  const auto after = std::upper_bound(begins_.begin(), begins_.end(), k);
  const auto batch = static_cast<std::size_t>(after - begins_.begin()) - 1;
  if (!at_hand.map || at_hand.batch != batch) {
    at_hand.map.reset();  // the old graph's memory before the new one's
    at_hand.map = output_map(problem_, matrix, static_cast<std::int64_t>(batch));
    at_hand.batch = batch;
    at_hand.cotangent = torch::zeros_like(at_hand.map->y).detach();
  }
  const auto& y = at_hand.map->y;
  std::vector<Tensor> parts(problem_.parameters().size());
  set_element(at_hand.cotangent, k - begins_[batch], 1);
  if (y.requires_grad()) {
    parts = torch::autograd::grad({y}, problem_.parameters(), {at_hand.cotangent}, true, false, /*allow_unused=*/true);
  }
  all_columns(problem_).store(parts, jacobian_.data() + k * n_);
  set_element(at_hand.cotangent, k - begins_[batch], 0);
}

template <class Number>
template <class Out>
void Factors<Number>::multiply(const Rows& rows, const Rows& columns, Out* out) {
  const auto count = rows.count();
  left_.assign(static_cast<std::size_t>(outputs() * count), Number{0});
  for (std::int64_t k = 0; k < outputs(); ++k) {
    for (const auto& [other, value] : weights_[static_cast<std::size_t>(k)]) {
      accumulate<Number>(count, value, row(other) + rows.begin, left_.data() + k * count);
    }
  }
  constexpr auto width = Strips<Number>::width;
  const auto fitting = panel_bytes / (outputs() * static_cast<std::int64_t>(sizeof(Number))) / width * width;
  const auto widest = std::max(fitting, 4 * width);
  for (auto column = columns.begin; column < columns.end; column += widest) {
    const auto some = std::min(widest, columns.end - column);
    panel_.resize(outputs(), some);
    for (std::int64_t k = 0; k < outputs(); ++k) {
      combine<Number>(some, 1, row(k) + column, 0, nullptr, panel_, k, 0);
    }
    hessian_mpi::multiply(Product<Number>{left_.data(), count, panel_.factor()}, count, out + column - columns.begin,
                          columns.count());
  }
}

}  // namespace

class JacobianFactors::Numbers {
 public:
  template <class... Arguments>
  explicit Numbers(Precision accumulate, const Arguments&... arguments)
      : factors_(accumulate == Precision::float32 ? Either(std::in_place_type<Factors<float>>, arguments...)
                                                  : Either(std::in_place_type<Factors<double>>, arguments...)) {}

  std::int64_t outputs() const {
    return std::visit([](const auto& factors) { return factors.outputs(); }, factors_);
  }
  template <class Out>
  void multiply(const Rows& rows, const Rows& columns, Out* out) {
    std::visit([&](auto& factors) { factors.multiply(rows, columns, out); }, factors_);
  }

 private:
  using Either = std::variant<Factors<float>, Factors<double>>;
  Either factors_;
};

JacobianFactors::JacobianFactors(const Problem& problem, Matrix matrix, Precision accumulate,
                                 const Communicator& communicator, const std::function<void()>& between)
    : numbers_(std::make_unique<Numbers>(accumulate, problem, matrix, communicator, between)) {}

JacobianFactors::~JacobianFactors() = default;

std::uint64_t JacobianFactors::bytes_per_row(std::int64_t /*columns*/) const {
  return sizeof(double) * static_cast<std::uint64_t>(numbers_->outputs());
}

void JacobianFactors::compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
                              const std::function<void(double)>& advance) {
  if (storage == Precision::float32) {
    numbers_->multiply(rows, columns, static_cast<float*>(out));
  } else {
    numbers_->multiply(rows, columns, static_cast<double*>(out));
  }
  advance(static_cast<double>(rows.count()));
}

std::int64_t outputs_to_factor(const Problem& problem, Matrix matrix, Method method) {
  if (matrix == Matrix::hessian || method == Method::rows) return 0;
  constexpr std::int64_t most_bytes = std::int64_t{8} << 30;
  const auto n = problem.index().size();
  std::int64_t outputs = 0;
  for (std::int64_t b = 0; b < problem.batches(); ++b) outputs += output_map(problem, matrix, b).y.numel();
  const auto bytes = outputs * n * static_cast<std::int64_t>(bytes_of(problem.precision()));
  return method == Method::layers || (outputs <= n && bytes <= most_bytes) ? outputs : 0;
}

}  // namespace hessian_mpi
