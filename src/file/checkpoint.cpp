#include "hessian_mpi/file/checkpoint.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi::file {
namespace {

// A checkpoint may take this share of the time; before the first one, it is taken to last this long.
constexpr double share_of_time = 0.02;
constexpr std::chrono::duration<double> expected_cost{0.01};

// Blocks and their records as numbers that can be joined across ranks.
constexpr std::size_t numbers_per_block = 3;

void append_numbers(std::int64_t block, const BlockRecord& record, std::vector<std::uint64_t>& numbers) {
  numbers.push_back(static_cast<std::uint64_t>(block));
  numbers.push_back(record.checksum);
  numbers.push_back(std::bit_cast<std::uint64_t>(record.largest));
}

}  // namespace

Checkpoint::Checkpoint(std::filesystem::path path, const matrix::BlockGrid& grid,
                       const std::vector<BlockRecord>& records, const ranks::Communicator& communicator,
                       std::unique_ptr<NewHessianFile> unfinished)
    : path_(std::move(path)),
      unfinished_(std::move(unfinished)),
      unfinished_path_(communicator.from_root(unfinished_ ? unfinished_->path().string() : std::string())),
      records_(static_cast<std::size_t>(grid.count())),
      communicator_(communicator),
      cost_(expected_cost) {
  communicator.on_root([&] {
    marks_.emplace(file(), grid);
    id_ = file_id(file());
  });
  std::vector<std::uint64_t> numbers;
  for (std::size_t b = 0; b < records.size() && communicator.is_root(); ++b) {
    if (records[b].on_disk) append_numbers(static_cast<std::int64_t>(b), records[b], numbers);
  }
  enter(numbers);
}

matrix::BlockList Checkpoint::enter(const std::vector<std::uint64_t>& numbers) {
  const auto joined = communicator_.join(numbers);
  matrix::BlockList blocks;
  for (std::size_t k = 0; k < joined.size(); k += numbers_per_block) {
    blocks.push_back(static_cast<std::int64_t>(joined[k]));
    records_[joined[k]] = {joined[k + 1], std::bit_cast<double>(joined[k + 2]), true};
  }
  std::sort(blocks.begin(), blocks.end());
  return blocks;
}

void Checkpoint::add(std::int64_t block, const BlockRecord& record) {
  added_.push_back(block);
  records_of_added_.push_back(record);
}

bool Checkpoint::is_due() const {
  return Clock::now() - last_ >= cost_ / share_of_time;
}

void Checkpoint::mark(const matrix::BlockList& blocks) {
  for (std::size_t k = 0; k < blocks.size();) {
    const auto piece = matrix::neighbours_from(blocks, k, static_cast<std::int64_t>(blocks.size()));
    marks_->write(piece.begin, {records_.begin() + piece.begin, records_.begin() + piece.end});
    k += static_cast<std::size_t>(piece.count());
  }
  marks_->sync();
}

void Checkpoint::take(HessianWriter& writer) {
  const auto start = Clock::now();
  writer.sync();
  std::vector<std::uint64_t> numbers;
  for (std::size_t k = 0; k < added_.size(); ++k) append_numbers(added_[k], records_of_added_[k], numbers);
  added_.clear();
  records_of_added_.clear();
  const auto blocks = enter(numbers);
  // Not on_root(): where a disk fails, the message is to name the rank and its host.
  communicator_.together([&] {
    if (communicator_.is_root() && !blocks.empty()) mark(blocks);
  });
  if (!blocks.empty()) publish();
  last_ = Clock::now();
  cost_ = last_ - start;
}

void Checkpoint::publish() {
  if (is_published()) return;
  communicator_.on_root([&] { unfinished_->publish(); });
  unfinished_path_.clear();
}

void Checkpoint::forget(const matrix::BlockList& blocks) {
  for (const auto b : blocks) records_[static_cast<std::size_t>(b)].on_disk = false;
  communicator_.on_root([&] { mark(blocks); });
}

void Checkpoint::expect_same_file() const {
  communicator_.on_root([&] {
    if (marks_->are_in(path_) && file_id(path_) == id_) return;
    throw RunError(text("'", path_.string(),
                        "' is no longer the file that this run writes: somebody has removed it, or ",
                        "put another one in its place, which is left as it is"));
  });
}

matrix::BlockList Checkpoint::missing() const {
  matrix::BlockList blocks;
  for (std::size_t b = 0; b < records_.size(); ++b) {
    if (!records_[b].on_disk) blocks.push_back(static_cast<std::int64_t>(b));
  }
  return blocks;
}

}  // namespace hessian_mpi::file
