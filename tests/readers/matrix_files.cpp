// Makes the files that the readers are tested with, by the functions that the program writes its own with. Their matrix
// has no symmetry, so that whoever takes rows for columns is found out: H[i, j] = (131 i + 17 j) mod 7919 - 4000.
//
//   matrix_files FOLDER    whole.h5 (float32), whole_float64.h5, part-0.h5 and part-1.h5, joined.h5 (which refers to
//                          the parts), unfinished.h5; odd_names.h5 and many.h5, with other parameters; blocks.h5,
//                          diagonal.h5 and odd_blocks.h5 with less than the whole matrix

#include <filesystem>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "hessian_mpi/base/checksum.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi {
namespace {

matrix::ParameterIndex parameters() {
  matrix::ParameterIndex index;
  index.append("conv1.weight", {2, 1, 3, 3});
  index.append("conv1.bias", {2});
  index.append("fc.weight", {5, 8});
  index.append("fc.bias", {5});
  index.append("scale", {});
  return index;
}

// Names that are no names of HDF5, and a parameter without elements.
matrix::ParameterIndex odd_parameters() {
  matrix::ParameterIndex index;
  for (const auto* name : {"a/b", "50%", ".", "größe"}) index.append(name, {2});
  index.append("none", {0, 3});
  return index;
}

matrix::ParameterIndex many_parameters() {
  matrix::ParameterIndex index;
  for (int p = 0; p < 33; ++p) index.append(text("layer", p), {1 + p % 3});
  return index;
}

template <class Number>
std::vector<Number> rows_of_matrix(const Rows& rows, std::int64_t n) {
  std::vector<Number> numbers;
  for (std::int64_t i = rows.begin; i < rows.end; ++i) {
    for (std::int64_t j = 0; j < n; ++j) numbers.push_back(static_cast<Number>((131 * i + 17 * j) % 7919 - 4000));
  }
  return numbers;
}

// Theta and the gradient are k / 2 and -k.
struct Contents {
  matrix::ParameterIndex index;
  std::vector<double> value;
  std::vector<double> gradient;
  file::Attributes attributes{{"loss", std::string("cross_entropy")}, {"loss_value", 0.25}};

  explicit Contents(matrix::ParameterIndex of) : index(std::move(of)) {
    for (std::int64_t k = 0; k < index.size(); ++k) {
      value.push_back(static_cast<double>(k) / 2);
      gradient.push_back(-static_cast<double>(k));
    }
  }
  file::HessianLayout layout(const matrix::MatrixShape& matrix) const {
    return {index, matrix, matrix.storage, value, gradient, attributes};
  }
};

matrix::MatrixShape shape_of(std::int64_t n, Precision storage, const Rows& rows) {
  return {matrix::BlockGrid(n, n * static_cast<std::int64_t>(bytes_of(storage)), rows), n, storage};
}

template <class Number>
std::vector<file::StoredBlock> write_rows(const std::filesystem::path& path, const matrix::MatrixShape& matrix,
                                          const ranks::Communicator& world) {
  file::HessianWriter writer(path, matrix, world);
  const auto rows = matrix.grid.part();
  writer.write(rows, rows_of_matrix<Number>(rows, matrix.columns).data());
  writer.close();
  auto blocks = file::blocks_of(matrix.grid);
  for (auto& [own, record] : blocks) {
    const auto numbers = rows_of_matrix<Number>(own, matrix.columns);
    double largest = 0;
    for (const auto number : numbers) largest = std::max(largest, std::abs(static_cast<double>(number)));
    record = {xxh3(numbers.data(), numbers.size() * sizeof(Number)), largest, true};
  }
  return blocks;
}

void mark(const std::filesystem::path& path, const matrix::MatrixShape& matrix,
          const std::vector<file::StoredBlock>& blocks) {
  std::vector<file::BlockRecord> records;
  for (const auto& block : blocks) records.push_back(block.record);
  file::BlockMarks(path, matrix.grid).write(0, records);
}

file::PartFile make(const std::filesystem::path& path, Precision storage, const Rows& rows, bool complete,
                    const ranks::Communicator& world, const Contents& contents = Contents(parameters())) {
  const auto matrix = shape_of(contents.index.size(), storage, rows);
  file::create_hessian_file(path, contents.layout(matrix), true);
  const auto blocks =
      storage == Precision::float32 ? write_rows<float>(path, matrix, world) : write_rows<double>(path, matrix, world);
  mark(path, matrix, blocks);
  if (complete) file::finish_hessian_file(path, {}, true);
  return {path, rows, blocks};
}

// Less than the whole, the same numbers where there are any.
void make_entries(const std::filesystem::path& path, Entries entries, const matrix::ParameterIndex& index,
                  const ranks::Communicator& world) {
  const auto matrix = matrix::matrix_of(index, Precision::float32, entries);
  file::create_hessian_file(path, Contents(index).layout(matrix), true);
  file::HessianWriter writer(path, matrix, world);
  auto blocks = file::blocks_of(matrix.grid);
  for (auto& [rows, record] : blocks) {
    std::vector<float> numbers;
    for (auto i = rows.begin; i < rows.end; ++i) {
      const auto all = rows_of_matrix<float>({i, i + 1}, matrix.columns);
      const auto columns = matrix.columns_of(i);
      numbers.insert(numbers.end(), all.begin() + columns.begin, all.begin() + columns.end);
    }
    writer.write(rows, numbers.data());
    record = {xxh3(numbers.data(), numbers.size() * sizeof(float)), 4000, true};
  }
  writer.close();
  mark(path, matrix, blocks);
  file::finish_hessian_file(path, {}, true);
}

void make_all(const std::filesystem::path& folder, const ranks::Communicator& world) {
  std::filesystem::create_directories(folder);
  const Contents contents(parameters());
  const auto n = contents.index.size();
  make(folder / "whole.h5", Precision::float32, {0, n}, true, world);
  make(folder / "whole_float64.h5", Precision::float64, {0, n}, true, world);
  make(folder / "unfinished.h5", Precision::float32, {0, n}, false, world);
  // The cut goes through a parameter.
  const std::vector<file::PartFile> parts{make(folder / "part-0.h5", Precision::float32, {0, 25}, true, world),
                                          make(folder / "part-1.h5", Precision::float32, {25, n}, true, world)};
  const auto matrix = shape_of(n, Precision::float32, {0, n});
  file::create_joined_file(folder / "joined.h5", contents.layout(matrix), parts, false, true,
                           [](const std::filesystem::path&) { return file::Attributes{}; });
  for (const auto& [name, index] : {std::pair{"odd_names.h5", odd_parameters()}, {"many.h5", many_parameters()}}) {
    make(folder / name, Precision::float32, {0, index.size()}, true, world, Contents(index));
  }
  make_entries(folder / "blocks.h5", Entries::diagonal_blocks, parameters(), world);
  make_entries(folder / "odd_blocks.h5", Entries::diagonal_blocks, odd_parameters(), world);
  make_entries(folder / "diagonal.h5", Entries::diagonal, parameters(), world);
}

}  // namespace
}  // namespace hessian_mpi

int main(int argc, char** argv) {
  const hessian_mpi::ranks::MpiSession session(argc, argv);
  if (argc != 2) {
    std::cerr << "usage: matrix_files FOLDER\n";
    return 2;
  }
  try {
    hessian_mpi::make_all(argv[1], hessian_mpi::ranks::Communicator::world());
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "matrix_files: " << error.what() << '\n';
    return 1;
  }
}
