#include "hessian_mpi/hessian_rows.hpp"

#include <optional>
#include <utility>

#include "hessian_mpi/error.hpp"

namespace hessian_mpi {

namespace {

// Collective. An open file of all ranks, or an error after which nothing is left to do but to abort.
hdf5::File open_together(const std::filesystem::path& path, const Communicator& communicator) {
  std::optional<hdf5::File> file;
  try {
    communicator.together([&] { file.emplace(hdf5::File::open_parallel(path, communicator.handle())); });
  } catch (const AgreedError& error) {
    if (file) file->abandon();
    throw AgreedError(error.code(), error.what(), AgreedError::Afterwards::abort);
  }
  return std::move(*file);
}

}  // namespace

HessianWriter::HessianWriter(const std::filesystem::path& path, const MatrixShape& matrix,
                             const Communicator& communicator)
    : file_(open_together(path, communicator)),
      offset_(communicator.together([&] { return file_.offset_in_file("/hessian"); })),
      writeback_(communicator.together([&] { return EarlyWriteback(path); })),
      matrix_(matrix),
      communicator_(communicator) {}

HessianWriter::~HessianWriter() {
  if (open_) file_.abandon();
}

void HessianWriter::write(const Rows& rows, const void* numbers) {
  const Rows& part = matrix_.grid.part();
  // A rank that failed before the collective call would leave the others waiting in it.
  communicator_.together([&] {
    const bool outside = rows.begin < part.begin || rows.end < rows.begin || rows.end > part.end;
    if (rows.count() != 0 && outside) {
      throw RunError(text("rows ", rows.begin, " to ", rows.end, " are not among those of the file, ", part.begin,
                          " to ", part.end));
    }
  });
  communicator_.together([&] {
    const auto first = rows.count() == 0 ? 0 : rows.begin - part.begin;
    const hdf5::Tile tile{static_cast<std::uint64_t>(first), 0, static_cast<std::uint64_t>(rows.count()),
                          static_cast<std::uint64_t>(matrix_.columns)};
    file_.write_tile_collectively("/hessian", hdf5::type_of(matrix_.storage), tile, numbers);
    const auto row_bytes = static_cast<std::uint64_t>(matrix_.bytes_of_row());
    if (tile.rows > 0) writeback_.start(offset_ + tile.row * row_bytes, tile.rows * row_bytes);
  });
}

void HessianWriter::sync() {
  communicator_.together([&] { writeback_.finish(); });
  // Every node brings its own cache to the disk.
  communicator_.together([&] {
    if (communicator_.rank_on_node() == 0) writeback_.sync();
  });
}

void HessianWriter::close() {
  sync();
  communicator_.together([&] { file_.close(); });
  open_ = false;
}

HessianReader::HessianReader(const std::filesystem::path& path)
    : file_(hdf5::File::open_to_read(path)),
      first_row_(static_cast<std::uint64_t>(file_.integer_attribute("/", "row_begin").value_or(0))) {}

std::vector<double> HessianReader::tile(const hdf5::Tile& tile) const {
  std::vector<double> numbers(tile.rows * tile.columns);
  const hdf5::Tile in_file{tile.row - first_row_, tile.column, tile.rows, tile.columns};
  file_.read_tile("/hessian", hdf5::Type::float64, in_file, numbers.data());
  return numbers;
}

std::vector<char> HessianReader::bytes(const Rows& rows, const MatrixShape& matrix) const {
  const auto first = rows.count() == 0 ? 0 : static_cast<std::uint64_t>(rows.begin) - first_row_;
  const hdf5::Tile tile{first, 0, static_cast<std::uint64_t>(rows.count()), static_cast<std::uint64_t>(matrix.columns)};
  std::vector<char> buffer(static_cast<std::size_t>(rows.count() * matrix.bytes_of_row()));
  file_.read_tile("/hessian", hdf5::type_of(matrix.storage), tile, buffer.data());
  return buffer;
}

}  // namespace hessian_mpi
