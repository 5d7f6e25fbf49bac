#include "hessian_mpi/file/hessian_rows.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi::file {
namespace {

// Collective. A file that all ranks have open for writing.
hdf5::File open_together(const std::filesystem::path& path, const ranks::Communicator& communicator) {
  std::optional<hdf5::File> file;
  try {
    communicator.together([&] { file.emplace(hdf5::File::open_parallel(path, communicator.handle())); });
  } catch (const ranks::AgreedError&) {
    if (file) file->abandon();
    communicator.forbid_finalising();
    throw;
  }
  return std::move(*file);
}

// Collective. A step of HDF5 on all ranks. Where HDF5 gives chunks their places, ranks agree on them inside, and one
// that fails leaves the others waiting there for ever: its error is then its own, and ends all of them.
template <class Step>
void collectively(const hdf5::File& file, const MatrixDatasets& datasets, const ranks::Communicator& communicator,
                  const Step& step) {
  if (file.chunks(datasets.name())) {
    step();
  } else {
    communicator.together(step);
  }
}

}  // namespace

HessianWriter::HessianWriter(const std::filesystem::path& path, matrix::MatrixShape matrix,
                             const ranks::Communicator& communicator)
    : file_(open_together(path, communicator)),
      // Not from file_: a dataset in chunks takes its space where it is opened, collectively (see collectively()).
      datasets_(communicator.together([&] { return MatrixDatasets(hdf5::File::open_to_read(path)); })),
      offsets_(file_, matrix.storage),
      writeback_(communicator.together([&] { return system::EarlyWriteback(path); })),
      matrix_(std::move(matrix)),
      writes_together_(ranks::returns_from_failed_writes()),
      communicator_(communicator) {}

HessianWriter::~HessianWriter() {
  if (!open_) return;
  file_.abandon();  // HDF5 may be in the middle of something on some ranks
  communicator_.forbid_finalising();
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
  collectively(file_, datasets_, communicator_, [&] {
    const auto row = rows.count() == 0 ? part.begin : rows.begin;
    const auto place = datasets_.place_of({row, row + rows.count()}, matrix_.columns_of(row));
    // HDF5's chunks can be written together alone.
    const bool together = writes_together_ || file_.chunks(place.dataset);
    if (matrix_.has_whole_rows() && together) {
      file_.write_tile_collectively(place.dataset, hdf5::type_of(matrix_.storage), place.tile, numbers);
    } else if (rows.count() > 0) {  // ranks may be in different datasets
      file_.write_tile_alone(place.dataset, hdf5::type_of(matrix_.storage), place.tile, numbers);
    }
    if (rows.count() == 0) return;
    const auto bytes = static_cast<std::uint64_t>(matrix_.bytes_of_rows(rows));
    if (const auto offset = offsets_.of(place, bytes)) writeback_.start(*offset, bytes);  // none where it is in chunks
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
  collectively(file_, datasets_, communicator_, [&] { file_.close(); });
  open_ = false;
}

HessianReader::HessianReader(const std::filesystem::path& path)
    : file_(hdf5::File::open_to_read(path)), datasets_(file_) {}

std::vector<double> HessianReader::tile(const hdf5::Tile& tile) const {
  std::vector<double> numbers(tile.rows * tile.columns);
  const auto range = [](std::uint64_t begin, std::uint64_t count) {
    return Rows{static_cast<std::int64_t>(begin), static_cast<std::int64_t>(begin + count)};
  };
  const auto place = datasets_.place_of(range(tile.row, tile.rows), range(tile.column, tile.columns));
  file_.read_tile(place.dataset, hdf5::Type::float64, place.tile, numbers.data());
  return numbers;
}

std::vector<double> HessianReader::rows_of_block(const std::vector<Rows>& ranges, const Rows& rows) const {
  const auto tile_of = [&](const Rows& some_rows, const Rows& columns) {
    return tile({static_cast<std::uint64_t>(some_rows.begin), static_cast<std::uint64_t>(columns.begin),
                 static_cast<std::uint64_t>(some_rows.count()), static_cast<std::uint64_t>(columns.count())});
  };
  if (ranges.size() == 1) return tile_of({ranges[0].begin + rows.begin, ranges[0].begin + rows.end}, ranges[0]);
  const auto length = [](std::int64_t sum, const Rows& range) { return sum + range.count(); };
  const auto n = std::accumulate(ranges.begin(), ranges.end(), std::int64_t{0}, length);
  std::vector<double> numbers(static_cast<std::size_t>(rows.count() * n));
  std::int64_t first = 0;  // row of the block that a range begins with
  for (const auto& of_rows : ranges) {
    const auto begin = std::max(rows.begin, first);
    const auto height = std::min(rows.end, first + of_rows.count()) - begin;
    std::int64_t column = 0;
    for (const auto& of_columns : ranges) {
      if (height <= 0) break;
      const auto row = of_rows.begin + begin - first;
      const auto piece = tile_of({row, row + height}, of_columns);
      for (std::int64_t i = 0; i < height; ++i) {
        std::copy_n(piece.begin() + i * of_columns.count(), of_columns.count(),
                    numbers.begin() + (begin - rows.begin + i) * n + column);
      }
      column += of_columns.count();
    }
    first += of_rows.count();
  }
  return numbers;
}

std::vector<char> HessianReader::bytes(const Rows& rows, const matrix::MatrixShape& matrix) const {
  std::vector<char> buffer(static_cast<std::size_t>(matrix.bytes_of_rows(rows)));
  if (rows.count() > 0) read(rows, matrix.columns_of(rows.begin), matrix.storage, buffer.data());
  return buffer;
}

void HessianReader::read(const Rows& rows, const Rows& columns, Precision storage, char* numbers) const {
  const auto [dataset, tile] = datasets_.place_of(rows, columns);
  file_.read_tile(dataset, hdf5::type_of(storage), tile, numbers);
}

}  // namespace hessian_mpi::file
