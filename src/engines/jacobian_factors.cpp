#include "hessian_mpi/engines/jacobian_factors.hpp"

#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>

#include <algorithm>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "flat_row.hpp"
#include "hessian_mpi/engines/output_map.hpp"
#include "hessian_mpi/engines/tile.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/ranks/together_until_done.hpp"

namespace hessian_mpi::engines {
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

// A number of A that is not zero, in the row of an output.
template <class Number>
struct Weight {
  std::int64_t output;
  Number value;
};

template <class Number>
class Factors {
 public:
  Factors(const network::Problem& problem, Matrix matrix, const ranks::Communicator& communicator,
          const std::function<void()>& between)
      : problem_(problem), n_(problem.index().size()) {
    count_outputs(matrix, communicator);
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
    ranks::together_until_done(static_cast<std::size_t>(own.count()), derive_next, between, communicator);
    communicator.complete(reinterpret_cast<char*>(jacobian_.data()), bytes);
    share_weights(communicator);
  }

  std::int64_t outputs() const { return begins_.back(); }

  template <class Out>
  void multiply(const Rows& rows, const Rows& columns, Out* out);

 private:
  void count_outputs(Matrix matrix, const ranks::Communicator& communicator);
  void derive(Matrix matrix, std::int64_t k, BatchOutputs& at_hand);
  void weigh(const Tensor& row_of_a, std::int64_t first);
  void share_weights(const ranks::Communicator& communicator);
  const Number* row(std::int64_t output) const { return jacobian_.data() + output * n_; }

  const network::Problem& problem_;
  std::int64_t n_;
  std::vector<std::int64_t> begins_{0};         // of each batch among all outputs, and the end
  std::vector<Number> jacobian_;                // [K][N]
  std::vector<Weight<Number>> weights_;         // A, row by row: of this rank's outputs, once shared of all
  std::vector<std::uint64_t> weights_of_rows_;  // how many each row has
  std::vector<Number> left_;                    // (A J)[:, rows]
  Strips<Number> panel_;
};

template <class Number>
void Factors<Number>::count_outputs(Matrix matrix, const ranks::Communicator& communicator) {
  std::vector<std::uint64_t> counts;
  communicator.together([&] {
    const auto own = matrix::share(problem_.batches(), communicator.rank(), communicator.size());
    for (auto b = own.begin; b < own.end; ++b) {
      counts.push_back(static_cast<std::uint64_t>(output_map(problem_, matrix, b).y.numel()));
    }
  });
  for (const auto count : communicator.join(counts)) {
    begins_.push_back(begins_.back() + static_cast<std::int64_t>(count));
  }
}

// A row of A has the outputs of its batch, which begin with `first`.
template <class Number>
void Factors<Number>::weigh(const Tensor& row_of_a, std::int64_t first) {
  const Tensor numbers = row_of_a.detach().to(at::kCPU, dtype_of_number<Number>).contiguous();
  const auto* number = numbers.template const_data_ptr<Number>();
  const auto before = weights_.size();
  for (std::int64_t other = 0; other < numbers.numel(); ++other) {
    if (number[other] != 0) weights_.push_back({first + other, number[other]});
  }
  weights_of_rows_.push_back(weights_.size() - before);
}

template <class Number>
void Factors<Number>::share_weights(const ranks::Communicator& communicator) {
  if (communicator.size() == 1) return;
  const auto own = std::move(weights_);
  weights_of_rows_ = communicator.join(weights_of_rows_);
  std::vector<std::int64_t> begins{0};
  for (const auto count : communicator.join({own.size()})) {
    begins.push_back(begins.back() + static_cast<std::int64_t>(count * sizeof(Weight<Number>)));
  }
  weights_.resize(static_cast<std::size_t>(begins.back()) / sizeof(Weight<Number>));
  const auto place =
      begins[static_cast<std::size_t>(communicator.rank())] / static_cast<std::int64_t>(sizeof(Weight<Number>));
  std::copy(own.begin(), own.end(), weights_.begin() + place);
  communicator.complete(reinterpret_cast<char*>(weights_.data()), begins);
}

// Row k of J, and of A, which is symmetric.
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
  weigh(at_hand.map->times(at_hand.cotangent), begins_[batch]);
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
  const auto* weight = weights_.data();
  for (std::int64_t k = 0; k < outputs(); ++k) {
    const auto* const end = weight + weights_of_rows_[static_cast<std::size_t>(k)];
    for (; weight < end; ++weight) {
      accumulate<Number>(count, weight->value, row(weight->output) + rows.begin, left_.data() + k * count);
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
    engines::multiply(Product<Number>{left_.data(), count, panel_.factor()}, count, out + column - columns.begin,
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

JacobianFactors::JacobianFactors(const network::Problem& problem, Matrix matrix, Precision accumulate,
                                 const ranks::Communicator& communicator, const std::function<void()>& between)
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

std::int64_t outputs_to_factor(const network::Problem& problem, Matrix matrix, Method method) {
  if (matrix == Matrix::hessian || method == Method::rows) return 0;
  constexpr std::int64_t most_bytes = std::int64_t{8} << 30;
  const auto n = problem.index().size();
  std::int64_t outputs = 0;
  for (std::int64_t b = 0; b < problem.batches(); ++b) outputs += output_map(problem, matrix, b).y.numel();
  const auto bytes = outputs * n * static_cast<std::int64_t>(bytes_of(problem.precision()));
  return method == Method::layers || (outputs <= n && bytes <= most_bytes) ? outputs : 0;
}

}  // namespace hessian_mpi::engines
