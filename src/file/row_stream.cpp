#include "hessian_mpi/file/row_stream.hpp"

#include <fcntl.h>
#include <sys/uio.h>

#include <algorithm>
#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/worker.hpp"
#include "hessian_mpi/system/node.hpp"

namespace hessian_mpi::file {
namespace {

// What a core's caches hold while it is looked at, and still large for a disk.
constexpr std::int64_t target_slab_bytes = 4 << 20;
// Products of a few rows with a vector cost little more than that of one, so that a slab is larger where rows are long.
constexpr std::int64_t rows_worth_a_slab = 4;
constexpr std::int64_t largest_slab_bytes = 64 << 20;
// HDF5 before 1.12.3 fails at 2 GiB.
constexpr std::size_t most_bytes_at_once = 1 << 30;
// The disk reads so many bytes at once, while slabs of them are looked at one by one.
constexpr std::size_t bytes_announced = 64 << 20;
// As much as the kernel reads ahead with its usual settings: of longer announcements it may only take the beginning.
constexpr std::size_t bytes_of_announcement = 128 << 10;

}  // namespace

Rows rows_of_rank(const matrix::MatrixShape& matrix, int rank, int ranks) {
  const Rows& part = matrix.grid.part();
  const auto own = matrix::share(part.count(), rank, ranks);
  return {part.begin + own.begin, part.begin + own.end};
}

std::vector<Rows> slabs_of(const Rows& rows, const matrix::MatrixShape& matrix) {
  std::vector<Rows> slabs;
  for (auto begin = rows.begin; begin < rows.end; begin = slabs.back().end) {
    const auto row = matrix.bytes_of_rows({begin, begin + 1});
    const auto few = std::min(rows_worth_a_slab, largest_slab_bytes / row);
    const auto height = std::max({std::int64_t{1}, target_slab_bytes / row, few});
    const auto end = std::min(rows.end, matrix.grid.piece(matrix.grid.piece_of(begin)).end);
    slabs.push_back({begin, std::min(begin + height, end)});
  }
  return slabs;
}

RowStream::RowStream(const std::filesystem::path& path, matrix::MatrixShape matrix, std::vector<Rows> slabs)
    : matrix_(std::move(matrix)),
      slabs_(std::move(slabs)),
      file_(hdf5::File::open_to_read(path)),
      bytes_(path, O_RDONLY) {
  const MatrixDatasets datasets(file_);
  PlainOffsets offsets(file_, matrix_.storage);
  std::size_t most = 0;
  for (const auto& slab : slabs_) {
    const auto place = datasets.place_of(slab, matrix_.columns_of(slab.begin));
    const auto bytes = static_cast<std::size_t>(matrix_.bytes_of_rows(slab));
    places_.push_back({place.dataset, place.tile, offsets.of(place, bytes), bytes});
    most = std::max(most, bytes);
  }
  if (most >= most_bytes_at_once) throw RunError(text("a slab of ", most, " bytes is larger than can be read at once"));
  at_hand_.resize(most);
  // On its only core a thread would only get in the way, but where it waits for the disk and the kernel reads nothing
  // ahead.
  on_thread_ = !reads_plainly() || system::processors_of_process().size() > 1;
  if (on_thread_) next_.resize(most);
}

bool RowStream::reads_plainly() const {
  return std::all_of(places_.begin(), places_.end(), [](const Place& place) { return place.offset.has_value(); });
}

void RowStream::announce(const Place& place) const {
  for (std::size_t done = 0; done < place.bytes; done += bytes_of_announcement) {
    posix_fadvise(bytes_.descriptor(), static_cast<off_t>(*place.offset + done),
                  static_cast<off_t>(std::min(bytes_of_announcement, place.bytes - done)), POSIX_FADV_WILLNEED);
  }
}

std::size_t RowStream::read_cached(const Place& place, std::vector<char>& buffer) const {
  const iovec whole{buffer.data(), place.bytes};
  // Where the file system cannot tell, nothing is cached.
  return static_cast<std::size_t>(
      std::max<ssize_t>(0, preadv2(bytes_.descriptor(), &whole, 1, static_cast<off_t>(*place.offset), RWF_NOWAIT)));
}

// Waits for the disk no longer than it has to: what is not in the page cache is announced to the kernel first, with
// what follows it.
void RowStream::read(std::size_t slab, std::vector<char>& buffer, ReadAhead& ahead) const {
  const auto& place = places_[slab];
  if (!place.offset) {
    file_.read_tile(place.dataset, hdf5::type_of(matrix_.storage), place.tile, buffer.data());
    return;
  }
  const auto cached = ahead.from_disk ? 0 : read_cached(place, buffer);
  if (!ahead.from_disk && cached < place.bytes) {
    ahead.from_disk = true;
    ahead.next = slab;
  }
  for (; ahead.from_disk && ahead.next < places_.size() && ahead.bytes < bytes_announced; ++ahead.next) {
    const auto& coming = places_[ahead.next];
    if (!coming.offset) continue;
    announce(coming);
    ahead.bytes += coming.bytes;
  }
  bytes_.read(*place.offset + cached, buffer.data() + cached, place.bytes - cached);
  if (ahead.from_disk) ahead.bytes -= place.bytes;
}

void RowStream::each_in_turn(const std::function<void(const Slab&)>& visit) {
  ReadAhead ahead;
  for (std::size_t k = 0; k < slabs_.size(); ++k) {
    read(k, at_hand_, ahead);
    visit(slab_at_hand(k));
  }
}

void RowStream::each_on_thread(const std::function<void(const Slab&)>& visit) {
  ReadAhead ahead;
  Worker reader;  // the last to be made: it has ended before the buffers can go
  const auto begin_to_read = [&](std::size_t k) { return reader.begin([&, k] { read(k, next_, ahead); }); };
  auto reading = begin_to_read(0);
  for (std::size_t k = 0; k < slabs_.size(); ++k) {
    reading.get();
    std::swap(at_hand_, next_);
    if (k + 1 < slabs_.size()) reading = begin_to_read(k + 1);
    visit(slab_at_hand(k));
  }
}

Slab RowStream::slab_at_hand(std::size_t k) const {
  return {slabs_[k], matrix_.columns_of(slabs_[k].begin).count(), matrix_.storage, at_hand_.data()};
}

void RowStream::each(const std::function<void(const Slab&)>& visit) {
  if (slabs_.empty()) return;
  if (on_thread_) {
    each_on_thread(visit);
  } else {
    each_in_turn(visit);
  }
}

}  // namespace hessian_mpi::file
