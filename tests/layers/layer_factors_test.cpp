// Rows factored by layer against rows made one by one, and both against PyTorch, on the networks of
// tests/models/random_architectures.py: in this process, without a file and without ranks.

#include "hessian_mpi/layers/layer_factors.hpp"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <optional>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "all_layers.hpp"
#include "formula_model.hpp"
#include "hessian_mpi/engines/diagonal.hpp"
#include "hessian_mpi/engines/double_backward.hpp"
#include "hessian_mpi/engines/engine.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "network_folder.hpp"

namespace hessian_mpi::layers {

namespace {

constexpr std::uint64_t enough_memory = std::uint64_t{1} << 30;

std::unique_ptr<AllLayers> make_layers_engine(const network::Problem& problem, std::uint64_t memory = enough_memory) {
  return std::make_unique<AllLayers>(problem, memory);
}

// Largest difference over the largest number of what is compared with, in a way of deriving and in PyTorch's.
constexpr double tolerance_in_float64 = 1e-10;
constexpr double tolerance_in_float32 = 1e-5;
// Of either way in float32 against float64: that is the rounding of the network itself, and both ways may have it.
constexpr double rounding_of_float32 = 1e-4;

std::filesystem::path folder_of_networks() {
  return std::filesystem::path(HESSIAN_MPI_TEST_MODELS) / "random";
}

// A network: its folder, and what it is about.
struct Network {
  std::string name;
  std::string about;
  friend std::ostream& operator<<(std::ostream& out, const Network& network) {
    return out << network.name << ' ' << network.about;
  }
};

std::vector<Network> networks() {
  std::vector<Network> found;
  for (const auto& line : text_lines(folder_of_networks() / "cases")) {
    const auto end = line.find(' ');
    found.push_back({line.substr(0, end), line.substr(end + 1)});
  }
  return found;
}

LoadedProblem load(const Network& network, Precision precision) {
  return load_as_the_program_does(options_in(folder_of_networks() / network.name), precision);
}

// Rows of a matrix, in the precision that they were computed in.
template <class Number>
using Numbers = std::vector<Number>;

template <class Number>
constexpr Precision precision_of = sizeof(Number) == sizeof(float) ? Precision::float32 : Precision::float64;

template <class Number>
Numbers<Number> rows_of(engines::Engine& engine, const Rows& rows, std::int64_t columns) {
  // NaN: what is not written shows.
  Numbers<Number> numbers(static_cast<std::size_t>(rows.count() * columns), std::numeric_limits<Number>::quiet_NaN());
  double advanced = 0;
  engine.compute(rows, {0, columns}, precision_of<Number>, numbers.data(), [&](double done) { advanced += done; });
  EXPECT_NEAR(advanced, static_cast<double>(rows.count()), 1e-6);
  return numbers;
}

template <class Number>
Numbers<Number> all_rows(engines::Engine& engine, const network::Problem& problem) {
  const auto n = problem.index().size();
  return rows_of<Number>(engine, {0, n}, n);
}

// Where the worst difference is, for the reader of a failure.
template <class Number, class Other>
void expect_alike(const Numbers<Number>& found, const Numbers<Other>& expected, double tolerance,
                  const matrix::ParameterIndex& index, const char* what) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  double largest = 0;
  double worst = 0;
  std::size_t place = 0;
  for (std::size_t k = 0; k < found.size(); ++k) {
    const double difference = std::abs(static_cast<double>(found[k]) - static_cast<double>(expected[k]));
    largest = std::max(largest, std::abs(static_cast<double>(expected[k])));
    if (difference <= worst) continue;  // false for NaN
    worst = std::isfinite(difference) ? difference : std::numeric_limits<double>::infinity();
    place = k;
  }
  const double scale = largest == 0 ? 1 : largest;
  const auto n = index.size();
  const auto at = static_cast<std::int64_t>(place);
  EXPECT_LE(worst / scale, tolerance) << what << ", at " << index.describe(at / n) << ", " << index.describe(at % n)
                                      << ": " << found[place] << " instead of " << expected[place]
                                      << ", the largest being " << largest;
}

// On other ranks, an engine is asked for other rows; without memory, it makes again what it keeps otherwise.
template <class Number>
void expect_same_bytes_in_pieces(const network::Problem& problem, const Numbers<Number>& whole) {
  const auto n = problem.index().size();
  const auto engine = make_layers_engine(problem, 0);
  for (const Rows& rows : {Rows{n - 1, n}, Rows{n / 2, n - 1}, Rows{0, n / 2}}) {
    const auto piece = rows_of<Number>(*engine, rows, n);
    EXPECT_EQ(std::memcmp(piece.data(), whole.data() + rows.begin * n, piece.size() * sizeof(Number)), 0)
        << "rows " << rows.begin << " to " << rows.end - 1;
  }
}

// Each tensor's diagonal block, all at once and in squares, from a plan that makes nothing else.
void expect_diagonal_blocks(const network::Problem& problem, const Numbers<double>& whole) {
  const auto n = problem.index().size();
  const auto plan = plan_layers(problem, Method::layers, Entries::diagonal_blocks);
  auto found = whole;  // with its diagonal blocks made anew
  engines::DoubleBackward unfactored(problem);
  for (std::size_t p = 0; p < plan.parameters.size(); ++p) {
    const auto& entry = problem.index().entries()[p];
    const Rows rows{entry.offset, entry.offset + entry.size};
    if (rows.count() == 0) continue;
    const EarlierColumns none({}, {{rows}}, 0, Precision::float64);
    std::optional<LayerFactors> factors;
    if (plan.is_factored(p)) {
      const auto& step = plan.steps[plan.parameters[p].step];
      ASSERT_EQ(step.layers.size(), step.whole ? step.row_layers : 1) << "of other layers nothing is needed";
      factors.emplace(problem, step, std::vector<Rows>{rows}, none, unfactored, Precision::float64, enough_memory);
    }
    engines::Engine& engine = factors ? static_cast<engines::Engine&>(*factors) : unfactored;
    const auto width = rows.count();
    Numbers<double> block(static_cast<std::size_t>(width * width), std::numeric_limits<double>::quiet_NaN());
    engine.compute(rows, rows, Precision::float64, block.data(), [](double) {});
    for (std::int64_t i = 0; i < width; ++i) {
      std::copy_n(block.begin() + i * width, width, found.begin() + (rows.begin + i) * n + rows.begin);
    }
    Numbers<double> diagonal(static_cast<std::size_t>(rows.count()), std::numeric_limits<double>::quiet_NaN());
    engines::Diagonal(engine).compute(rows, rows, Precision::float64, diagonal.data(), [](double) {});
    for (std::size_t i = 0; i < diagonal.size(); ++i) {
      EXPECT_EQ(diagonal[i], block[i * (diagonal.size() + 1)]) << entry.name << ", the same number in fewer columns";
    }
  }
  expect_alike(found, whole, tolerance_in_float64, problem.index(), "diagonal blocks");
}

// J^T A J of all outputs of a batch, from J and A derived output by output.
torch::Tensor gauss_newton_product(const network::Problem& problem, std::int64_t batch) {
  const auto flat = [](const std::vector<torch::Tensor>& parts, const std::vector<torch::Tensor>& like) {
    std::vector<torch::Tensor> all;
    for (std::size_t k = 0; k < parts.size(); ++k) {
      all.push_back((parts[k].defined() ? parts[k].to_dense() : torch::zeros_like(like[k])).reshape(-1));
    }
    return torch::cat(all).detach().cpu();
  };
  auto output = problem.output(batch);
  const auto y = output.value.toTensor();
  const auto leaf = y.detach().clone().requires_grad_();
  output.value = leaf;
  const auto loss = problem.loss_of(output, problem.terms(output));
  const auto gradient = torch::autograd::grad({loss}, {leaf}, {}, true, true).front().reshape(-1);
  std::vector<torch::Tensor> jacobian;
  std::vector<torch::Tensor> second;
  for (std::int64_t k = 0; k < y.numel(); ++k) {
    const auto row = torch::autograd::grad({y.reshape(-1)[k]}, problem.parameters(), {}, true, false, true);
    jacobian.push_back(flat(row, problem.parameters()));
    second.push_back(gradient.requires_grad()
                         ? flat(torch::autograd::grad({gradient[k]}, {leaf}, {}, true, false, true), {leaf})
                         : torch::zeros({y.numel()}, torch::kFloat64));
  }
  const auto j = torch::stack(jacobian);
  return j.t().mm(torch::stack(second)).mm(j);
}

void expect_gauss_newton_matrix(const Network& network) {
  auto options = options_in(folder_of_networks() / network.name);
  if (options.loss == "output") return;  // of what is before it nothing is known
  options.matrix = Matrix::ggn;
  const auto loaded = load_as_the_program_does(options, Precision::float64);
  const auto& problem = loaded.problem;
  const auto n = problem.index().size();
  auto expected = torch::zeros({n, n}, torch::kFloat64);
  for (std::int64_t b = 0; b < problem.batches(); ++b) expected += gauss_newton_product(problem, b);
  const Numbers<double> numbers(expected.data_ptr<double>(), expected.data_ptr<double>() + n * n);
  const auto by_layers = all_rows<double>(*make_layers_engine(problem), problem);
  expect_alike(by_layers, numbers, tolerance_in_float64, problem.index(), "Gauss-Newton matrix");
}

class RandomNetwork : public testing::TestWithParam<Network> {};

TEST_P(RandomNetwork, HasTheSameHessianByLayersByRowsAndInPyTorch) {
  const auto& network = GetParam();
  const int number = std::stoi(network.name);

  const auto loaded_wide = load(network, Precision::float64);
  const auto& wide = loaded_wide.problem;
  engines::DoubleBackward wide_engine(wide);
  const auto by_rows = all_rows<double>(wide_engine, wide);
  const auto by_layers = all_rows<double>(*make_layers_engine(wide), wide);
  const auto expected = reference_in(folder_of_networks() / network.name);
  expect_alike(by_rows, expected, tolerance_in_float64, wide.index(), "rows against PyTorch");
  expect_alike(by_layers, expected, tolerance_in_float64, wide.index(), "layers against PyTorch");
  expect_alike(by_layers, by_rows, tolerance_in_float64, wide.index(), "layers against rows");
  if (number % 8 == 0) expect_same_bytes_in_pieces(wide, by_layers);
  if (number % 4 == 2) expect_diagonal_blocks(wide, by_rows);
  if (number % 5 == 1) expect_gauss_newton_matrix(network);

  const auto loaded_narrow = load(network, Precision::float32);
  const auto& narrow = loaded_narrow.problem;
  engines::DoubleBackward narrow_engine(narrow);
  const auto coarse_by_rows = all_rows<float>(narrow_engine, narrow);
  const auto coarse_by_layers = all_rows<float>(*make_layers_engine(narrow), narrow);
  expect_alike(coarse_by_layers, coarse_by_rows, tolerance_in_float32, narrow.index(), "layers against rows, float32");
  expect_alike(coarse_by_layers, by_rows, rounding_of_float32, narrow.index(), "layers in float32 against float64");
  expect_alike(coarse_by_rows, by_rows, rounding_of_float32, narrow.index(), "rows in float32 against float64");
  if (number % 8 == 4) expect_same_bytes_in_pieces(narrow, coarse_by_layers);
}

const auto name_of_test = [](const testing::TestParamInfo<Network>& info) {
  auto name = info.param.name;
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
  return name;
};
// Without the files there is nothing to instantiate, and the test below says so.
// The mean square of what a linear layer makes of ones, and the square of their mean over the positions of a sample.
class SquaresOfLayer final : public network::Model {
 public:
  SquaresOfLayer() {
    parameters_ = {{"weight", torch::ones({1, 3})}, {"bias", torch::ones({1})}};
    for (auto& parameter : parameters_) parameter.value.requires_grad_();
  }
  std::string format() const override { return "test"; }
  std::vector<network::NamedTensor> parameters() const override { return parameters_; }
  std::vector<std::string> input_names() const override { return {"x"}; }
  void convert(torch::Dtype, torch::Device) override {}
  void set_mode(Mode) override {}
  c10::IValue forward(const std::vector<c10::IValue>& arguments) override {
    const auto z = at::linear(arguments.front().toTensor(), parameters_[0].value, parameters_[1].value);
    return z.square().mean() + z.mean(1).square().mean();
  }

 private:
  std::vector<network::NamedTensor> parameters_;
};

// All elements are 4. A sum in float32 of so many equal numbers is wrong in the fourth digit.
TEST(ManyPlaces, AreSummedToTheLastDigitsOfFloat32) {
  const std::int64_t many = 200'000;
  for (const std::int64_t samples : {std::int64_t{2}, many}) {  // of as many positions in all
    network::ProblemSettings settings;
    settings.loss = "output";
    const auto x = torch::ones({samples, many / samples, 3});
    const network::Problem problem(std::make_unique<SquaresOfLayer>(), {{x}, {}}, settings);
    EXPECT_TRUE(plan_layers(problem, Method::layers).is_factored(0));
    const auto engine = make_layers_engine(problem);
    for (const float number : all_rows<float>(*engine, problem)) EXPECT_NEAR(number, 4, 1e-4) << samples;
  }
}

// Rows of a weight in its own columns, of which half are copied: with more columns than are made together, the last of
// them fewer, and with more samples than are summed at once.
template <class Number>
void expect_own_columns(std::int64_t samples, double tolerance) {
  const std::int64_t outputs = 3;
  const std::int64_t columns = 37;
  torch::manual_seed(1);
  const auto options = torch::dtype(sizeof(Number) == sizeof(float) ? torch::kFloat32 : torch::kFloat64);
  network::ProblemSettings settings;
  settings.loss = "output";
  settings.precision = precision_of<Number>;
  const auto of_input = [](const torch::Tensor& w, const torch::Tensor& x) {
    return at::linear(x, w).tanh().sum(1).square().mean();
  };
  const network::Problem problem(formula_model(torch::randn({outputs, columns}, options) / 6, of_input),
                                 {{torch::randn({samples, columns}, options)}, {}}, settings);
  ASSERT_TRUE(plan_layers(problem, Method::layers).is_factored(0));
  const auto found = all_rows<Number>(*make_layers_engine(problem), problem);
  engines::DoubleBackward by_rows(problem);
  expect_alike(found, all_rows<Number>(by_rows, problem), tolerance, problem.index(), "layers against rows");
  expect_same_bytes_in_pieces(problem, found);
  const auto number = [&](std::int64_t p, std::int64_t q, std::int64_t r, std::int64_t s) {
    return found[static_cast<std::size_t>((p * columns + q) * outputs * columns + r * columns + s)];
  };
  for (std::int64_t q = 0; q < columns; ++q) {
    for (std::int64_t s = 0; s < q; ++s) EXPECT_EQ(number(0, q, 2, s), number(0, s, 2, q)) << q << ' ' << s;
  }
}

TEST(OwnColumns, AreThoseOfRowsMadeOneByOne) {
  for (const std::int64_t samples : {5, 700}) {
    expect_own_columns<float>(samples, tolerance_in_float32);
    expect_own_columns<double>(samples, tolerance_in_float64);
  }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(RandomNetwork);
INSTANTIATE_TEST_SUITE_P(Networks, RandomNetwork, testing::ValuesIn(networks()), name_of_test);

TEST(RandomNetworks, AreTwoHundredDifferentOnes) {
  std::set<std::string> different;
  for (const auto& network : networks()) different.insert(network.about);
  EXPECT_GE(different.size(), 200U) << "made by tests/models/random_architectures.py";
}

}  // namespace
}  // namespace hessian_mpi::layers
