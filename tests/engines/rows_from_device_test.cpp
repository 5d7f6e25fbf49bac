#include "rows_from_device.hpp"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>

#include <limits>
#include <vector>

#include "closed_form_model.hpp"
#include "flat_row.hpp"
#include "test_device.hpp"

namespace hessian_mpi::engines {
namespace {

template <class Number>
void expect_rows_in_order(torch::Dtype dtype, std::int64_t rows, std::int64_t columns) {
  const auto options = torch::TensorOptions(dtype).device(torch::Device(HESSIAN_MPI_TEST_DEVICE));
  const auto nan = std::numeric_limits<Number>::quiet_NaN();
  std::vector<Number> out(static_cast<std::size_t>(rows * columns + 1), nan);
  RowsFromDevice<Number> finished(options, rows, columns, out.data());
  for (std::int64_t i = 0; i < rows; ++i) {
    auto row = torch::arange(columns, options) + 1000.0 * static_cast<double>(i);
    finished.put(row);
    row.fill_(-1);  // what was put is not looked at again
  }
  finished.finish();
  EXPECT_TRUE(std::isnan(out.back()));
  for (std::int64_t i = 0; i < rows; ++i) {
    for (const std::int64_t j : {std::int64_t{0}, columns / 2, columns - 1}) {
      ASSERT_EQ(out[static_cast<std::size_t>(i * columns + j)],
                static_cast<Number>(j) + Number{1000} * static_cast<Number>(i))
          << "row " << i << ", column " << j;
    }
  }
}

TEST(RowsFromDevice, ComeInOrderHoweverManyAreCopiedAtOnce) {
  constexpr std::int64_t half_of_a_copy = 1 << 16;  // 512 KiB in float64
  for (const std::int64_t rows : {1, 2, 3, 4, 5, 7}) {
    expect_rows_in_order<double>(torch::kFloat64, rows, half_of_a_copy);
    expect_rows_in_order<double>(torch::kFloat64, rows, 3 * half_of_a_copy);  // more than a copy
    expect_rows_in_order<double>(torch::kFloat64, rows, 5);
  }
}

TEST(RowsFromDevice, AreConvertedToWhatIsStored) {
  expect_rows_in_order<float>(torch::kFloat64, 5, 1 << 17);
  expect_rows_in_order<double>(torch::kFloat32, 5, 1 << 17);
  expect_rows_in_order<float>(torch::kFloat32, 5, 7);
}

TEST(RowsMadeOnDevice, AreTheClosedFormInAnyBatches) {
  for (const std::int64_t batch_size : {5, 2}) {
    network::ProblemSettings settings;
    settings.loss = "output";
    settings.batch_size = batch_size;
    settings.precision = Precision::float64;
    settings.device = torch::Device(HESSIAN_MPI_TEST_DEVICE);
    const auto x = torch::tensor({{1.0, 2.0}, {-1.0, 0.5}, {2.0, -3.0}, {0.0, 1.0}, {1.0, -1.5}});
    const network::Problem problem(std::make_unique<ClosedFormModel>(), {{x}, {}}, settings);
    const auto expected = closed_form_hessian(0.6, -0.2);
    for (const Rows columns : {Rows{0, closed_form_size}, Rows{3, 8}, Rows{4, 5}}) {
      const ColumnsOfParameters by(problem, columns);
      std::vector<torch::Tensor> graph;
      const auto graph_of = [&](std::int64_t b) -> const std::vector<torch::Tensor>& {
        return graph = problem.gradient(b, /*create_graph=*/true);
      };
      const auto row_of = [&](const std::vector<torch::Tensor>& gradient, std::int64_t i) {
        const auto [parameter, element] = problem.index().locate(i);
        const auto& g = gradient[parameter];
        if (!g.defined() || !g.requires_grad()) return std::vector<torch::Tensor>(by.parameters().size());
        return torch::autograd::grad({g.reshape(-1)[element]}, by.parameters(), {}, true, false, true);
      };
      const Rows rows{1, 6};
      std::vector<double> out(static_cast<std::size_t>(rows.count() * columns.count()),
                              std::numeric_limits<double>::quiet_NaN());
      double advanced = 0;
      rows_made_on_device(rows, by, problem, graph_of, row_of, out.data(), [&](double done) { advanced += done; });
      EXPECT_NEAR(advanced, static_cast<double>(rows.count()), 1e-9);
      for (std::int64_t i = 0; i < rows.count(); ++i) {
        for (std::int64_t j = 0; j < columns.count(); ++j) {
          EXPECT_NEAR(out[static_cast<std::size_t>(i * columns.count() + j)],
                      expected[static_cast<std::size_t>((rows.begin + i) * closed_form_size + columns.begin + j)],
                      1e-13);
        }
      }
    }
  }
}

}  // namespace
}  // namespace hessian_mpi::engines
