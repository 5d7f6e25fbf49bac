#pragma once
/// Which dataset of the file has which entries of the matrix: /hessian all of them; of diagonal blocks /hessian/NAME
/// that of parameter NAME (link_name() of named_blocks.hpp); of the diagonal /diagonal its N numbers; of a matrix with
/// rows of samples /jacobian all. Not collective.

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/hdf5/hdf5.hpp"
#include "hessian_mpi/matrix/parameter_index.hpp"
#include "hessian_mpi/matrix/partition.hpp"

namespace hessian_mpi::file {

/// A dataset, and the rows of the whole matrix that it has.
struct MatrixDataset {
  std::string name;
  Rows rows;
  std::vector<std::uint64_t> shape;
};

/// The dataset or group that has the order and the offsets of parameters as attributes.
const char* matrix_object(Entries entries);

/// Where row `row` of a packed upper triangle begins: H[i, i:] of every row i, one after the other. In numbers from the
/// first; that of row n is how many there are.
constexpr std::int64_t packed_begin(std::int64_t row, std::int64_t n) {
  return row * n - row * (row - 1) / 2;
}

/// Which entries a file has, told by the objects in it.
Entries entries_in(const hdf5::File& file);

/// All datasets of a matrix, in the order of rows.
std::vector<MatrixDataset> datasets_of(const matrix::MatrixShape& matrix, const matrix::ParameterIndex& index);

/// The datasets of a file that was checked or made by this program.
class MatrixDatasets {
 public:
  /// Throws RunError where the file has none.
  explicit MatrixDatasets(const hdf5::File& file);

  std::vector<std::string> names() const;
  /// That of a matrix which has one alone: whole, a part, or the diagonal.
  const std::string& name() const { return datasets_.front().name; }

  /// Where some rows, of one dataset, lie: that dataset, and they as rows of it, in columns of the matrix that its rows
  /// have.
  struct Place {
    const std::string& dataset;
    hdf5::Tile tile;
  };
  Place place_of(const Rows& rows, const Rows& columns) const;

 private:
  Entries entries_;
  std::vector<MatrixDataset> datasets_;
};

/// Where the datasets of a file begin in it, each looked up once.
class PlainOffsets {
 public:
  /// The file must outlive the object. storage: of the numbers.
  PlainOffsets(const hdf5::File& file, Precision storage) : file_(file), storage_(storage) {}
  /// Of the first byte of a tile of whole rows, which have so many bytes; nothing where plain reads do not find them.
  std::optional<std::uint64_t> of(const MatrixDatasets::Place& place, std::uint64_t bytes);

 private:
  const hdf5::File& file_;
  Precision storage_;
  std::map<std::string, std::optional<std::uint64_t>> begins_;
};

}  // namespace hessian_mpi::file
