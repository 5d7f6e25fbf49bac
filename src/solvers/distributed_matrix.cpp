#include "hessian_mpi/solvers/distributed_matrix.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "scalapack.hpp"

namespace hessian_mpi::solvers {
namespace {

// Sides of the blocks: what Level 3 BLAS makes good use of, and small enough to spread evenly.
constexpr int most_per_block = 64;
constexpr int origin = 0;

int own_count(int n, int block, int process, int processes) {
  return numroc_(&n, &block, &process, &origin, &processes);
}

// Calls visit(above, below) for each pair of mirrored numbers of the blocks on the diagonal, each of which lies whole
// on one rank.
template <class Visit>
void each_pair_within_blocks(DistributedMatrix& matrix, const Visit& visit) {
  const auto block = matrix.block();
  const auto leading = matrix.own_rows();
  for (std::int64_t j0 = 0; j0 < matrix.own_columns(); j0 += block) {
    for (std::int64_t i0 = 0; i0 < leading; i0 += block) {
      if (matrix.row_of(i0) != matrix.column_of(j0)) continue;
      const auto side = std::min<std::int64_t>(block, std::min(matrix.own_columns() - j0, leading - i0));
      for (std::int64_t j = 0; j < side; ++j) {
        for (std::int64_t i = 0; i < j; ++i) {
          visit(matrix.data()[(j0 + j) * leading + i0 + i], matrix.data()[(j0 + i) * leading + i0 + j]);
        }
      }
    }
  }
}

// A panel below the diagonal of one block's width, so that what PBLAS takes for messages stays small: its first row and
// column as Fortran counts them, and its extent.
struct Panel {
  int row;
  int column;
  int height;
  int width;
};

template <class Visit>
void each_panel_below(const DistributedMatrix& matrix, const Visit& visit) {
  const int width = matrix.block();
  for (int begin = 0; begin + width < matrix.rows(); begin += width) {
    visit(Panel{begin + width + 1, begin + 1, matrix.rows() - begin - width, width});
  }
}

// The panel of the upper half that mirrors it becomes what it is.
void mirror(DistributedMatrix& matrix, const Panel& panel) {
  constexpr double all = 1;
  constexpr double nothing = 0;
  const auto* d = matrix.descriptor().data();
  pdtran_(&panel.width, &panel.height, &all, matrix.data(), &panel.row, &panel.column, d, &nothing, matrix.data(),
          &panel.column, &panel.row, d);
}

void average_with_transpose(DistributedMatrix& matrix, Half half) {
  each_pair_within_blocks(matrix, [](double& above, double& below) { above = below = 0.5 * (above + below); });
  constexpr double one_half = 0.5;
  const auto* d = matrix.descriptor().data();
  each_panel_below(matrix, [&](const Panel& panel) {
    pdtran_(&panel.height, &panel.width, &one_half, matrix.data(), &panel.column, &panel.row, d, &one_half,
            matrix.data(), &panel.row, &panel.column, d);
    if (half == Half::both) mirror(matrix, panel);
  });
}

SymmetricSums sums_of(const DistributedMatrix& matrix, const ranks::Communicator& communicator) {
  SymmetricSums own;
  each_number(matrix, [&](double number, std::int64_t row, std::int64_t column) {
    if (row < column) return;
    if (row == column) own.trace += number;
    own.squares += (row == column ? 1 : 2) * number * number;
    own.largest = std::max(own.largest, std::abs(number));
  });
  const auto all = communicator.sum(std::vector<double>{own.trace, own.squares});
  return {all[0], all[1], communicator.max(own.largest)};
}

void expect_finite(const std::vector<double>& numbers, std::int64_t begin, std::int64_t n,
                   const std::filesystem::path& path) {
  const auto wrong = std::find_if(numbers.begin(), numbers.end(), [](double x) { return !std::isfinite(x); });
  if (wrong == numbers.end()) return;
  const auto at = wrong - numbers.begin();
  throw RunError(text("'", path.string(), "' has NaN or infinity at row ", begin + at / n, ", column ", at % n,
                      ": such a matrix cannot be decomposed"));
}

}  // namespace

ProcessGrid::ProcessGrid(const ranks::Communicator& communicator, int rows, int columns)
    : rows_(rows), columns_(columns) {
  const int handle = Csys2blacs_handle(communicator.handle());
  context_ = handle;
  Cblacs_gridinit(&context_, "Row-major", rows, columns);
  Cfree_blacs_system_handle(handle);
  Cblacs_gridinfo(context_, &rows_, &columns_, &row_, &column_);
}

ProcessGrid::~ProcessGrid() {
  Cblacs_gridexit(context_);
}

std::array<int, 2> nearest_to_square(int ranks) {
  int rows = static_cast<int>(std::sqrt(static_cast<double>(ranks)));
  while (ranks % rows != 0) --rows;
  return {rows, ranks / rows};
}

DistributedMatrix::DistributedMatrix(const ProcessGrid& grid, std::int64_t rows, std::int64_t columns, int block_rows,
                                     int block_columns)
    : grid_(&grid) {
  constexpr auto most = std::int64_t{std::numeric_limits<int>::max()};
  const auto m = static_cast<int>(std::min(rows, most));
  const auto n = static_cast<int>(std::min(columns, most));
  own_rows_ = own_count(m, block_rows, grid.row(), grid.rows());
  own_columns_ = own_count(n, block_columns, grid.column(), grid.columns());
  // The first rank has the largest share: all ranks throw, or none.
  const auto largest_share = static_cast<double>(own_count(m, block_rows, 0, grid.rows())) *
                             static_cast<double>(own_count(n, block_columns, 0, grid.columns()));
  if (std::max(rows, columns) >= most || largest_share >= static_cast<double>(most)) {
    throw InputError(text("a matrix of ", rows, " x ", columns, " on ", grid.rows() * grid.columns(),
                          " ranks: ScaLAPACK cannot count the numbers of a rank's share: use more ranks"));
  }
  const int context = grid.context();
  const int leading = static_cast<int>(std::max<std::int64_t>(1, own_rows_));
  int info = 0;
  descinit_(descriptor_.data(), &m, &n, &block_rows, &block_columns, &origin, &origin, &context, &leading, &info);
  if (info != 0) throw RunError(text("ScaLAPACK's descinit failed with info = ", info));
  numbers_.resize(static_cast<std::size_t>(std::max<std::int64_t>(1, own_rows_ * own_columns_)));
}

std::int64_t DistributedMatrix::row_of(std::int64_t i) const {
  const std::int64_t block = descriptor_[4];
  return (i / block * grid_->rows() + grid_->row()) * block + i % block;
}

std::int64_t DistributedMatrix::column_of(std::int64_t j) const {
  const std::int64_t block = descriptor_[5];
  return (j / block * grid_->columns() + grid_->column()) * block + j % block;
}

DistributedMatrix square_matrix(const ProcessGrid& grid, std::int64_t n) {
  const std::int64_t side = std::max(grid.rows(), grid.columns());
  if (n < side) {
    throw InputError(text("a matrix with ", n, n == 1 ? " row" : " rows", " is too small for ",
                          grid.rows() * grid.columns(), " ranks: use ", n, n == 1 ? " rank" : " ranks or fewer"));
  }
  const auto block = static_cast<int>(std::clamp<std::int64_t>(n / side, 1, most_per_block));
  return {grid, n, n, block, block};
}

SymmetricSums read_symmetric_part(const std::filesystem::path& path, Half half, DistributedMatrix& matrix,
                                  const ranks::Communicator& communicator, const std::function<void(double)>& advance,
                                  const std::vector<Rows>& ranges) {
  const std::int64_t n = matrix.rows();
  const std::vector<Rows> all{{0, n}};
  const std::int64_t ranks = communicator.size();
  const ProcessGrid line(communicator, 1, communicator.size());
  // A column on each rank at least.
  const auto at_once = std::clamp<std::int64_t>(bytes_of_reading / (n * static_cast<std::int64_t>(sizeof(double))), 1,
                                                (n + ranks - 1) / ranks);
  const auto reader = communicator.together([&] { return file::HessianReader(path); });
  for (std::int64_t begin = 0; begin < n; begin += at_once * ranks) {
    const int columns = static_cast<int>(std::min(at_once * ranks, n - begin));
    // Rows of the file are columns here: H^T comes to be, of which the symmetric part is the same.
    DistributedMatrix rows(line, n, columns, static_cast<int>(n), static_cast<int>(at_once));
    communicator.together([&] {
      if (rows.own_columns() == 0) return;
      const auto own = begin + communicator.rank() * at_once;
      rows.numbers() = reader.rows_of_block(ranges.empty() ? all : ranges, {own, own + rows.own_columns()});
      expect_finite(rows.numbers(), own, n, path);
    });
    const int to = static_cast<int>(begin) + 1;
    const int all_rows = static_cast<int>(n);
    const int context = matrix.grid().context();
    pdgemr2d_(&all_rows, &columns, rows.data(), &first_index, &first_index, rows.descriptor().data(), matrix.data(),
              &first_index, &to, matrix.descriptor().data(), &context);
    if (advance) advance(static_cast<double>(rows.own_columns()));
  }
  average_with_transpose(matrix, half);
  return sums_of(matrix, communicator);
}

void fill_upper_half(DistributedMatrix& matrix) {
  each_pair_within_blocks(matrix, [](double& above, double& below) { above = below; });
  each_panel_below(matrix, [&](const Panel& panel) { mirror(matrix, panel); });
}

DistributedMatrix spread(const std::vector<double>& vectors, const DistributedMatrix& like) {
  const auto n = static_cast<std::size_t>(like.rows());
  DistributedMatrix matrix(like.grid(), like.rows(), static_cast<std::int64_t>(vectors.size() / n), like.block(),
                           like.block());
  each_number(matrix, [&](double& number, std::int64_t row, std::int64_t column) {
    number = vectors[static_cast<std::size_t>(column) * n + static_cast<std::size_t>(row)];
  });
  return matrix;
}

std::vector<double> gathered(const DistributedMatrix& matrix, const ranks::Communicator& communicator) {
  const auto rows = static_cast<std::size_t>(matrix.rows());
  std::vector<double> all(rows * static_cast<std::size_t>(matrix.columns()));
  each_number(matrix, [&](double number, std::int64_t row, std::int64_t column) {
    all[static_cast<std::size_t>(column) * rows + static_cast<std::size_t>(row)] = number;
  });
  return communicator.sum(std::move(all));
}

std::vector<double> product(const DistributedMatrix& matrix, const std::vector<double>& vectors,
                            const ranks::Communicator& communicator) {
  const auto n = static_cast<std::size_t>(matrix.rows());
  std::vector<double> sums(vectors.size());
  for (std::size_t v = 0; v < vectors.size(); v += n) {
    each_number(matrix, [&](double number, std::int64_t row, std::int64_t column) {
      sums[v + static_cast<std::size_t>(row)] += number * vectors[v + static_cast<std::size_t>(column)];
    });
  }
  return communicator.sum(std::move(sums));
}

DistributedMatrix principal_part(const DistributedMatrix& matrix, const std::vector<Rows>& ranges) {
  std::int64_t n = 0;
  for (const auto& range : ranges) n += range.count();
  DistributedMatrix part(matrix.grid(), n, n, matrix.block(), matrix.block());
  const int context = matrix.grid().context();
  int to_column = 1;
  for (const auto& columns : ranges) {
    int to_row = 1;
    const int width = static_cast<int>(columns.count());
    const int column = static_cast<int>(columns.begin) + 1;
    for (const auto& rows : ranges) {
      const int height = static_cast<int>(rows.count());
      const int row = static_cast<int>(rows.begin) + 1;
      pdgemr2d_(&height, &width, matrix.data(), &row, &column, matrix.descriptor().data(), part.data(), &to_row,
                &to_column, part.descriptor().data(), &context);
      to_row += height;
    }
    to_column += width;
  }
  return part;
}

void each_column_panel(const DistributedMatrix& matrix, const ranks::Communicator& communicator,
                       const std::function<void(const Rows& columns, const double* numbers)>& visit) {
  const std::int64_t rows = matrix.rows();
  const std::int64_t ranks = communicator.size();
  const ProcessGrid line(communicator, 1, communicator.size());
  const auto at_once = std::clamp<std::int64_t>(bytes_of_reading / (rows * static_cast<std::int64_t>(sizeof(double))),
                                                1, (matrix.columns() + ranks - 1) / ranks);
  for (std::int64_t begin = 0; begin < matrix.columns(); begin += at_once * ranks) {
    const int columns = static_cast<int>(std::min<std::int64_t>(at_once * ranks, matrix.columns() - begin));
    DistributedMatrix panel(line, rows, columns, static_cast<int>(rows), static_cast<int>(at_once));
    const int from = static_cast<int>(begin) + 1;
    const int all_rows = static_cast<int>(rows);
    const int context = matrix.grid().context();
    pdgemr2d_(&all_rows, &columns, matrix.data(), &first_index, &from, matrix.descriptor().data(), panel.data(),
              &first_index, &first_index, panel.descriptor().data(), &context);
    const auto own = std::min<std::int64_t>(begin + communicator.rank() * at_once, matrix.columns());
    visit({own, own + panel.own_columns()}, panel.data());
  }
}

}  // namespace hessian_mpi::solvers
