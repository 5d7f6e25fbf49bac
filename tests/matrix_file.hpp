#pragma once
/// Files with matrices that a test has made.

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "hessian_mpi/base/checksum.hpp"
#include "hessian_mpi/file/block_table.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "shared_folder.hpp"

namespace hessian_mpi {

/// A file with a matrix that the test has made.
class MatrixFile {
 public:
  /// In float64, of one parameter.
  MatrixFile(const ranks::Communicator& world, std::int64_t n, const std::vector<double>& numbers)
      : MatrixFile(world, one_parameter(n), Precision::float64, numbers) {}
  MatrixFile(const ranks::Communicator& world, const matrix::ParameterIndex& index, Precision storage,
             const std::vector<double>& numbers)
      : MatrixFile(world, index, storage, {0, index.size()}, numbers) {}
  /// With some rows alone: a part file. numbers: of these rows.
  MatrixFile(const ranks::Communicator& world, const matrix::ParameterIndex& index, Precision storage, const Rows& part,
             const std::vector<double>& numbers)
      : matrix{matrix::BlockGrid(index.size(), index.size() * static_cast<std::int64_t>(bytes_of(storage)), part),
               index.size(), storage},
        world_(world),
        folder_(world),
        n_(index.size()) {
    world.on_root([&] {
      const std::vector<double> zeros(static_cast<std::size_t>(n_), 0.0);
      file::create_hessian_file(path(), {index, matrix, storage, zeros, zeros, {}}, false);
    });
    const auto bytes = stored(numbers);
    const auto place = [&](std::int64_t row) { return bytes.data() + (row - part.begin) * matrix.bytes_of_row(); };
    file::HessianWriter writer(path(), matrix, world);
    const auto own = matrix::share(part.count(), world.rank(), world.size());
    const Rows rows{part.begin + own.begin, part.begin + own.end};
    writer.write(rows, place(rows.begin));
    writer.close();
    for (std::int64_t b = 0; b < matrix.grid.count(); ++b) {
      const auto block = matrix.grid.block(b);
      const auto size = static_cast<std::size_t>(block.count() * matrix.bytes_of_row());
      records.push_back({xxh3(place(block.begin), size), 0, true});
    }
    mark();
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

  /// Collective. Marks the blocks in the file as the records say.
  void mark() const {
    world_.on_root([&] {
      file::BlockMarks marks(path(), matrix.grid);
      marks.write(0, records);
      marks.sync();
    });
  }

  const matrix::MatrixShape matrix;
  std::vector<file::BlockRecord> records;

 private:
  static matrix::ParameterIndex one_parameter(std::int64_t n) {
    matrix::ParameterIndex index;
    index.append("weight", {n});
    return index;
  }
  std::vector<char> stored(const std::vector<double>& numbers) const {
    std::vector<char> bytes(numbers.size() * bytes_of(matrix.storage));
    if (matrix.storage == Precision::float64) {
      std::memcpy(bytes.data(), numbers.data(), bytes.size());
    } else {
      const std::vector<float> narrow(numbers.begin(), numbers.end());
      std::memcpy(bytes.data(), narrow.data(), bytes.size());
    }
    return bytes;
  }

  const ranks::Communicator& world_;
  SharedFolder folder_;
  std::int64_t n_;
};

/// Not symmetric, and every number another.
inline std::vector<double> any_numbers(std::int64_t n) {
  std::vector<double> numbers;
  for (std::int64_t k = 0; k < n * n; ++k) numbers.push_back(std::sin(static_cast<double>(k * k + 1)));
  return numbers;
}

/// Symmetric: a function of i + j.
inline std::vector<double> symmetric_numbers(std::int64_t n) {
  std::vector<double> numbers;
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) numbers.push_back(std::cos(static_cast<double>(i + j)));
  }
  return numbers;
}

}  // namespace hessian_mpi
