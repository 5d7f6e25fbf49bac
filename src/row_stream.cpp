#include "hessian_mpi/row_stream.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "hessian_mpi/error.hpp"
#include "hessian_mpi/worker.hpp"

namespace hessian_mpi {
namespace {

// What a core's caches hold while it is looked at, and still large for a disk.
constexpr std::int64_t target_slab_bytes = 4 << 20;
// HDF5 before 1.12.3 fails at 2 GiB.
constexpr std::int64_t most_bytes_at_once = 1 << 30;
// The disk reads so many at once, while they are looked at one by one.
constexpr std::size_t slabs_announced = 16;

std::size_t largest_of(const std::vector<Rows>& slabs, const MatrixShape& matrix) {
  std::int64_t rows = 0;
  for (const auto& slab : slabs) rows = std::max(rows, slab.count());
  const auto bytes = rows * matrix.bytes_of_row();
  if (bytes >= most_bytes_at_once) throw RunError(text("a slab of ", rows, " rows is larger than can be read at once"));
  return static_cast<std::size_t>(bytes);
}

}  // namespace

Rows rows_of_rank(const MatrixShape& matrix, int rank, int ranks) {
  const Rows& part = matrix.grid.part();
  const auto own = share(part.count(), rank, ranks);
  return {part.begin + own.begin, part.begin + own.end};
}

std::vector<Rows> slabs_of(const Rows& rows, const MatrixShape& matrix) {
  const auto height = std::max<std::int64_t>(1, target_slab_bytes / matrix.bytes_of_row());
  std::vector<Rows> slabs;
  for (auto begin = rows.begin; begin < rows.end; begin += height) {
    slabs.push_back({begin, std::min(begin + height, rows.end)});
  }
  return slabs;
}

RowStream::RowStream(const std::filesystem::path& path, const MatrixShape& matrix, std::vector<Rows> slabs)
    : path_(path),
      matrix_(matrix),
      slabs_(std::move(slabs)),
      file_(hdf5::File::open_to_read(path)),
      offset_(file_.plain_offset("/hessian", hdf5::type_of(matrix.storage))),
      descriptor_(path, Descriptor::Access::read),
      at_hand_(largest_of(slabs_, matrix)),
      next_(at_hand_.size()) {
  if (descriptor_.id() < 0) throw RunError(text("'", path.string(), "' could not be opened: ", reason(errno)));
}

void RowStream::announce(std::size_t slab) const {
  if (!offset_ || slab >= slabs_.size()) return;
  const auto [begin, end] = slabs_[slab];
  const auto first = begin - matrix_.grid.part().begin;
  posix_fadvise(descriptor_.id(), static_cast<off_t>(*offset_) + first * matrix_.bytes_of_row(),
                (end - begin) * matrix_.bytes_of_row(), POSIX_FADV_WILLNEED);
}

void RowStream::read_plainly(std::uint64_t offset, std::vector<char>& buffer, std::size_t bytes) const {
  for (std::size_t done = 0; done < bytes;) {
    const auto count = pread(descriptor_.id(), buffer.data() + done, bytes - done, static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      throw RunError(text("'", path_.string(), "' could not be read at byte ", offset + done, ": ",
                          count < 0 ? reason(errno) : "it ends there, before its last row"));
    }
    done += static_cast<std::size_t>(count);
  }
}

void RowStream::read(const Rows& rows, std::vector<char>& buffer) const {
  const auto first = static_cast<std::uint64_t>(rows.begin - matrix_.grid.part().begin);
  if (offset_) {
    const auto bytes_of_row = static_cast<std::uint64_t>(matrix_.bytes_of_row());
    read_plainly(*offset_ + first * bytes_of_row, buffer, static_cast<std::size_t>(rows.count()) * bytes_of_row);
    return;
  }
  const hdf5::Tile tile{first, 0, static_cast<std::uint64_t>(rows.count()),
                        static_cast<std::uint64_t>(matrix_.columns)};
  file_.read_tile("/hessian", hdf5::type_of(matrix_.storage), tile, buffer.data());
}

void RowStream::each(const std::function<void(const Slab&)>& visit) {
  if (slabs_.empty()) return;
  Worker reader;  // the last to be made: it has ended before the buffers can go
  const auto begin_to_read_slab = [&](std::size_t k) {
    return reader.begin([this, k] {
      announce(k + slabs_announced);
      read(slabs_[k], next_);
    });
  };
  for (std::size_t k = 0; k < slabs_announced; ++k) announce(k);
  auto reading = begin_to_read_slab(0);
  for (std::size_t k = 0; k < slabs_.size(); ++k) {
    reading.get();
    std::swap(at_hand_, next_);
    if (k + 1 < slabs_.size()) reading = begin_to_read_slab(k + 1);
    visit({slabs_[k], matrix_.columns, matrix_.storage, at_hand_.data()});
  }
}

}  // namespace hessian_mpi
