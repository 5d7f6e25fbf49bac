// Products with the matrix of a network: against PyTorch's Hessian and rows made one by one, and the same bits on any
// number of ranks.

#include "hessian_mpi/products/network_product.hpp"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

#include "formula_model.hpp"
#include "hessian_mpi/engines/jacobian_rows.hpp"
#include "hessian_mpi/ranks/spread_vectors.hpp"
#include "network_folder.hpp"

namespace hessian_mpi::products {
namespace {

using Numbers = std::vector<double>;

constexpr std::uint64_t plenty = 1 << 30;
constexpr std::int64_t count = 3;

Numbers vectors_of(std::int64_t n) {
  Numbers numbers;
  for (std::int64_t k = 0; k < count * n; ++k) numbers.push_back(std::cos(static_cast<double>(3 * k)));
  return numbers;
}

// On all ranks, of vectors that all ranks have.
Numbers whole_products(NetworkProduct& product, const Numbers& vectors, const ranks::Communicator& world) {
  Numbers own;
  for (auto x = vectors.begin(); x != vectors.end(); x += product.size()) {
    own.insert(own.end(), x + product.own().begin, x + product.own().end);
  }
  Numbers products(own.size(), std::numeric_limits<double>::quiet_NaN());
  product.multiply(own.data(), count, products.data());
  return ranks::whole_vectors(products.data(), count, product.own(), product.size(), world);
}

Numbers times(const Numbers& matrix, const Numbers& vectors) {
  const auto n = static_cast<std::int64_t>(vectors.size()) / count;
  Numbers products;
  for (std::int64_t v = 0; v < count; ++v) {
    for (std::int64_t i = 0; i < n; ++i) {
      const auto row = matrix.begin() + i * n;
      products.push_back(std::inner_product(row, row + n, vectors.begin() + v * n, 0.0));
    }
  }
  return products;
}

// What one process adds up, batch after batch.
Numbers times_alone(const network::Problem& problem, const Numbers& vectors) {
  const auto n = problem.index().size();
  Numbers sums(vectors.size(), 0.0);
  for (std::int64_t b = 0; b < problem.batches(); ++b) {
    const engines::BatchProduct of_batch(problem, b);
    for (std::int64_t v = 0; v < count; ++v) {
      std::vector<torch::Tensor> parts;
      for (const auto& entry : problem.index().entries()) {
        const double* from = vectors.data() + v * n + entry.offset;
        parts.push_back(torch::from_blob(const_cast<double*>(from), entry.shape, torch::kFloat64)
                            .to(problem.parameters().front().scalar_type(), /*non_blocking=*/false, /*copy=*/true));
      }
      const auto product = of_batch.times(parts);
      for (std::size_t p = 0; p < product.size(); ++p) {
        if (!product[p].defined()) continue;
        const auto& entry = problem.index().entries()[p];
        const auto numbers = product[p].to(torch::kFloat64).contiguous();
        auto* sum = sums.data() + v * n + entry.offset;
        for (std::int64_t k = 0; k < entry.size; ++k) sum[k] += numbers.const_data_ptr<double>()[k];
      }
    }
  }
  for (std::size_t k = 0; k < sums.size() && problem.l2() != 0; ++k) sums[k] += problem.l2() * vectors[k];
  return sums;
}

Numbers rows_one_by_one(const network::Problem& problem) {
  const auto n = problem.index().size();
  Numbers matrix(static_cast<std::size_t>(n * n));
  engines::JacobianRows rows(problem, problem.matrix());
  rows.compute({0, n}, {0, n}, Precision::float64, matrix.data(), [](double) {});
  return matrix;
}

void expect_near(const Numbers& found, const Numbers& expected, double tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  double largest = 0;
  double worst = 0;
  for (const double x : expected) largest = std::max(largest, std::abs(x));
  for (std::size_t k = 0; k < found.size(); ++k) worst = std::max(worst, std::abs(found[k] - expected[k]));
  EXPECT_LE(worst, tolerance * largest);
}

// Of the scripts' networks, in batches of two samples where that is the same loss.
class OfNetwork : public testing::TestWithParam<const char*> {
 protected:
  LoadedProblem load(Matrix matrix, Precision precision) {
    auto options = options_in(folder_);
    options.model = folder_ / "model.pt2";
    options.data = folder_ / "data.h5";
    options.matrix = matrix;
    if (options.mode == Mode::eval && options.loss != "output") options.batch_size = 2;
    return load_as_the_program_does(options, precision);
  }
  std::filesystem::path folder_ = std::filesystem::path(HESSIAN_MPI_TEST_MODELS) / GetParam();
  ranks::Communicator world_ = ranks::Communicator::world();
};

TEST_P(OfNetwork, IsThatOfPyTorchsHessian) {
  const auto loaded = load(Matrix::hessian, Precision::float64);
  const auto& problem = loaded.problem;
  const auto vectors = vectors_of(problem.index().size());
  for (const auto memory : {plenty, std::uint64_t{0}}) {
    NetworkProduct product(problem, memory, world_);
    const auto found = whole_products(product, vectors, world_);
    expect_near(found, times(reference_in(folder_), vectors), 1e-10);
    EXPECT_EQ(found, times_alone(problem, vectors)) << "the same bits on any number of ranks";
  }
}

TEST_P(OfNetwork, InFloat32ItHasTheSameBitsOnAnyRanks) {
  const auto loaded = load(Matrix::hessian, Precision::float32);
  const auto vectors = vectors_of(loaded.problem.index().size());
  NetworkProduct product(loaded.problem, plenty, world_);
  EXPECT_EQ(whole_products(product, vectors, world_), times_alone(loaded.problem, vectors));
}

TEST_P(OfNetwork, LossAndGradientAreThoseOfOneProcess) {
  const auto loaded = load(Matrix::hessian, Precision::float64);
  const auto expected = network::evaluate(loaded.problem);
  const auto found = evaluate(loaded.problem, {}, world_);
  EXPECT_EQ(found.loss, expected.loss);
  EXPECT_EQ(found.gradient, expected.gradient);
}

std::string name_of(const testing::TestParamInfo<const char*>& info) {
  return info.param;
}

INSTANTIATE_TEST_SUITE_P(Of, OfNetwork,
                         testing::Values("resnet", "unet", "efficientnet", "gpt", "vit", "mixer", "lstm",
                                         "graph_network", "batch_norm_train", "embedding", "tied", "l2_of_a_part",
                                         "minibatches_weighted", "linear_loss", "unused", "model_computes_loss"),
                         name_of);

TEST(NetworkProductTest, VectorsAtOnceKeepAllRanksBusy) {
  auto options = options_in(std::filesystem::path(HESSIAN_MPI_TEST_MODELS) / "gpt");
  const ranks::Communicator world = ranks::Communicator::world();
  for (const std::int64_t batch_size : {1, 2, 3}) {
    options.batch_size = batch_size;
    const auto loaded = load_as_the_program_does(options, Precision::float64);
    const NetworkProduct product(loaded.problem, plenty, world);
    const auto found = product.vectors_at_once();
    const auto batches = loaded.problem.batches();
    EXPECT_TRUE(batches >= world.size() ? found == 1 : found * batches % world.size() == 0 && found <= world.size());
  }
}

class OfOutputs : public OfNetwork {};

TEST_P(OfOutputs, GaussNewtonAndFisherMatricesAreThoseOfTheirRows) {
  for (const auto matrix : {Matrix::ggn, Matrix::fisher}) {
    const auto loaded = load(matrix, Precision::float64);
    const auto vectors = vectors_of(loaded.problem.index().size());
    NetworkProduct product(loaded.problem, plenty, world_);
    const auto found = whole_products(product, vectors, world_);
    expect_near(found, times(rows_one_by_one(loaded.problem), vectors), 1e-10);
    EXPECT_EQ(found, times_alone(loaded.problem, vectors));
  }
}

INSTANTIATE_TEST_SUITE_P(Of, OfOutputs, testing::Values("mlp_mse", "gpt", "minibatches_weighted"), name_of);

// tanh(w * x), which counts how often it is run.
std::unique_ptr<network::Model> counted(int& runs) {
  return formula_model(torch::ones({100}, torch::kFloat64), [&runs](const torch::Tensor& w, const torch::Tensor& x) {
    ++runs;
    return torch::tanh(x * w);
  });
}

TEST(Graphs, AreKeptWhereThereIsRoomAndElseMadeAgain) {
  const auto world = ranks::Communicator::world();
  const std::int64_t batches_of_rank = 4;
  int runs = 0;
  network::ProblemSettings settings;
  settings.loss = "mse";
  settings.precision = Precision::float64;
  settings.batch_size = 2;
  const auto x = torch::ones({2 * batches_of_rank * world.size(), 100}, torch::kFloat64);
  const network::Problem problem(counted(runs), network::Data{{x}, {x}}, settings);
  const auto vectors = vectors_of(problem.index().size());
  const auto runs_of_later_product = [&](std::uint64_t memory) {
    NetworkProduct product(problem, memory, world);
    whole_products(product, vectors, world);
    runs = 0;
    whole_products(product, vectors, world);
    return runs;
  };
  EXPECT_EQ(runs_of_later_product(plenty), 0);
  EXPECT_EQ(runs_of_later_product(0), batches_of_rank - 1) << "one is kept";
}

}  // namespace
}  // namespace hessian_mpi::products
