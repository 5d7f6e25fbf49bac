#pragma once
/// Files with matrices that a test has made.

#include <cmath>
#include <filesystem>
#include <fstream>
#include <vector>

#include "hessian_mpi/block_table.hpp"
#include "hessian_mpi/checksum.hpp"
#include "hessian_mpi/communicator.hpp"
#include "hessian_mpi/hessian_file.hpp"
#include "hessian_mpi/hessian_rows.hpp"
#include "shared_folder.hpp"

namespace hessian_mpi {

/// A file with a matrix that the test has made.
class MatrixFile {
 public:
  MatrixFile(const Communicator& world, std::int64_t n, const std::vector<double>& numbers)
      : matrix{BlockGrid(n, n * 8), n, Precision::float64}, world_(world), folder_(world), n_(n) {
    ParameterIndex index;
    index.append("weight", {n});
    world.on_root([&] {
      const std::vector<double> zeros(static_cast<std::size_t>(n), 0.0);
      create_hessian_file(path(), {index, matrix, Precision::float64, zeros, zeros, {}}, false);
    });
    HessianWriter writer(path(), matrix, world);
    const Rows own{n * world.rank() / world.size(), n * (world.rank() + 1) / world.size()};
    writer.write(own, numbers.data() + own.begin * n);
    writer.close();
    for (std::int64_t b = 0; b < matrix.grid.count(); ++b) {
      const auto [begin, end] = matrix.grid.block(b);
      const auto bytes = static_cast<std::size_t>((end - begin) * n) * sizeof(double);
      records.push_back({xxh3(numbers.data() + begin * n, bytes), 0, true});
    }
  }
  std::filesystem::path path() const { return folder_ / "hessian.h5"; }

  /// Collective. Replaces one number behind HDF5's back.
  void damage(std::int64_t i, std::int64_t j, double number) const {
    world_.on_root([&] {
      const auto offset = hdf5::File::open_to_read(path()).offset_in_file("/hessian");
      std::fstream file(path(), std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(static_cast<std::streamoff>(offset) + (i * n_ + j) * static_cast<std::streamoff>(sizeof(double)));
      file.write(reinterpret_cast<const char*>(&number), sizeof(number));
    });
  }

  const MatrixShape matrix;
  std::vector<BlockRecord> records;

 private:
  const Communicator& world_;
  SharedFolder folder_;
  std::int64_t n_;
};

/// Symmetric: a function of i + j.
inline std::vector<double> symmetric_numbers(std::int64_t n) {
  std::vector<double> numbers;
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) numbers.push_back(std::cos(static_cast<double>(i + j)));
  }
  return numbers;
}

}  // namespace hessian_mpi
