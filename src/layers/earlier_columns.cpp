#include "hessian_mpi/layers/earlier_columns.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi::layers {
namespace {

constexpr std::int64_t most_received = 1 << 30;    // see Communicator::exchange
constexpr std::int64_t most_exchanged = 32 << 20;  // bytes from and to a rank at once: buffers that are used again

}  // namespace

std::int64_t count_of(const std::vector<Rows>& runs) {
  std::int64_t count = 0;
  for (const auto& run : runs) count += run.count();
  return count;
}

std::int64_t place_of(std::int64_t row, const std::vector<Rows>& runs) {
  std::int64_t before = 0;
  for (const auto& run : runs) {
    if (row < run.end) return before + row - run.begin;
    before += run.count();
  }
  return before;
}

EarlierColumns::EarlierColumns(std::vector<Rows> earlier, std::vector<std::vector<Rows>> wanted, int rank,
                               Precision storage)
    : earlier_(std::move(earlier)),
      wanted_(std::move(wanted)),
      rank_(static_cast<std::size_t>(rank)),
      number_bytes_(static_cast<std::int64_t>(bytes_of(storage))),
      earlier_count_(count_of(earlier_)) {
  wanted_begins_.push_back(0);
  for (const auto& runs : wanted_) wanted_begins_.push_back(wanted_begins_.back() + count_of(runs));
}

void EarlierColumns::note(std::int64_t row, const void* numbers, std::int64_t first_column) {
  const char* const bytes = static_cast<const char*>(numbers);
  std::vector<char> wanted;
  wanted.reserve(static_cast<std::size_t>(bytes_noted()));
  for (const auto& runs : wanted_) {
    for (const auto& run : runs) {
      wanted.insert(wanted.end(), bytes + (run.begin - first_column) * number_bytes_,
                    bytes + (run.end - first_column) * number_bytes_);
    }
  }
  noted_.push_back({row, std::move(wanted)});
}

Rows EarlierColumns::columns() const {
  std::optional<Rows> all;
  for (const auto& runs : wanted_) {
    for (const auto& run : runs) {
      all = all ? Rows{std::min(all->begin, run.begin), std::max(all->end, run.end)} : run;
    }
  }
  return all.value_or(Rows{});
}

// Row by row what a rank wants of noted ones, which are neighbours where the file has them.
void EarlierColumns::append(std::size_t begin, std::size_t end, std::size_t rank, const std::vector<Rows>& runs,
                            const ReadRows& read, std::vector<char>& numbers) const {
  const auto bytes_of_row = static_cast<std::size_t>(count_of(runs) * number_bytes_);
  const auto first = numbers.size();
  numbers.resize(first + (end - begin) * bytes_of_row);
  char* to = numbers.data() + first;
  std::vector<char> piece;
  for (const auto& run : runs) {
    const auto bytes = static_cast<std::size_t>(run.count() * number_bytes_);
    const char* from = nullptr;
    if (noted_[begin].numbers.empty()) {
      piece.resize((end - begin) * bytes);
      read({noted_[begin].row, noted_[begin].row + static_cast<std::int64_t>(end - begin)}, run, piece.data());
      from = piece.data();
    }
    const auto place = (wanted_begins_[rank] + place_of(run.begin, wanted_[rank])) * number_bytes_;
    for (auto k = begin; k < end; ++k, from += from == nullptr ? 0 : bytes) {
      std::memcpy(to + (k - begin) * bytes_of_row, from == nullptr ? noted_[k].numbers.data() + place : from, bytes);
    }
    to += bytes;
  }
}

void EarlierColumns::send(std::size_t begin, std::size_t end, const std::vector<std::vector<Rows>>& some,
                          const ReadRows& read, const ranks::Communicator& communicator) {
  std::vector<char> numbers;
  std::vector<char> names;
  std::vector<int> counts;
  std::vector<int> counts_of_names;
  communicator.together([&] {
    std::int64_t of_row = 0;
    for (const auto& runs : some) of_row += count_of(runs) * number_bytes_;
    numbers.reserve((end - begin) * static_cast<std::size_t>(of_row));
    for (std::size_t rank = 0; rank < some.size(); ++rank) {
      const auto before = numbers.size();
      for (auto k = begin; k < end;) {
        auto next = k + 1;
        while (next < end && noted_[next].row == noted_[next - 1].row + 1 &&
               noted_[next].numbers.empty() == noted_[k].numbers.empty()) {
          ++next;
        }
        append(k, next, rank, some[rank], read, numbers);
        k = next;
      }
      for (auto k = begin; k < end; ++k) {
        const auto* const name = reinterpret_cast<const char*>(&noted_[k].row);
        names.insert(names.end(), name, name + sizeof(std::int64_t));
      }
      counts.push_back(static_cast<int>(numbers.size() - before));
      counts_of_names.push_back(static_cast<int>((end - begin) * sizeof(std::int64_t)));
    }
  });
  const auto received_names = communicator.exchange(names, counts_of_names);
  const auto received = communicator.exchange(numbers, counts);
  std::vector<std::int64_t> rows(received_names.size() / sizeof(std::int64_t));
  std::memcpy(rows.data(), received_names.data(), received_names.size());
  if (number_bytes_ == sizeof(float)) {
    keep(rows, reinterpret_cast<const float*>(received.data()));
  } else {
    keep(rows, reinterpret_cast<const double*>(received.data()));
  }
}

// numbers: of some earlier rows, in the columns that are this rank's rows.
template <class Number>
void EarlierColumns::keep(const std::vector<std::int64_t>& rows, const Number* numbers) {
  constexpr std::int64_t at_once = 64 / sizeof(Number);  // a line of the cache
  const auto own = count_of(kept_rows_);
  std::vector<std::int64_t> columns;
  for (const auto row : rows) {
    columns.push_back(place_of(row, earlier_));
    found_[static_cast<std::size_t>(columns.back())] = true;
  }
  auto* const kept = reinterpret_cast<Number*>(kept_.data());
  for (std::int64_t begin = 0; begin < own; begin += at_once) {
    const auto end = std::min(own, begin + at_once);
    for (std::size_t k = 0; k < columns.size(); ++k) {
      const Number* const from = numbers + static_cast<std::int64_t>(k) * own;
      for (auto i = begin; i < end; ++i) kept[i * earlier_count_ + columns[k]] = from[i];
    }
  }
}

void EarlierColumns::exchange(const std::vector<std::vector<Rows>>& some, const ReadRows& read,
                              const ranks::Communicator& communicator) {
  const auto ranks = static_cast<std::int64_t>(some.size());
  std::int64_t all = 0;
  std::int64_t largest = 0;
  for (const auto& runs : some) {
    all += count_of(runs);
    largest = std::max(largest, count_of(runs) * ranks);
  }
  const auto bytes = std::max({all, largest, std::int64_t{1}}) * number_bytes_;
  const auto at_once = std::max<std::int64_t>(1, most_exchanged / bytes);
  communicator.together([&] {
    if (at_once * bytes > most_received) throw RunError("too many rows of one step on one rank: take more ranks");
    kept_rows_ = some[rank_];
    kept_.resize(static_cast<std::size_t>(count_of(kept_rows_) * bytes_kept()));
    found_.assign(static_cast<std::size_t>(earlier_count_), false);
  });
  const auto noted = static_cast<std::int64_t>(noted_.size());
  const auto rounds = (communicator.max(noted) + at_once - 1) / at_once;
  for (std::int64_t round = 0; round < rounds; ++round) {
    const auto begin = std::min(noted, round * at_once);
    send(static_cast<std::size_t>(begin), static_cast<std::size_t>(std::min(noted, begin + at_once)), some, read,
         communicator);
  }
  communicator.together([&] {
    if (std::find(found_.begin(), found_.end(), false) != found_.end()) {
      throw RunError("a row that others need as a column was made on no rank");
    }
  });
}

void EarlierColumns::exchange(const ranks::Communicator& communicator) {
  exchange(wanted_, {}, communicator);
  noted_ = {};
}

void EarlierColumns::fill(std::int64_t row, void* numbers) const {
  const auto has_row = [=](const Rows& run) { return run.begin <= row && row < run.end; };
  if (std::none_of(kept_rows_.begin(), kept_rows_.end(), has_row)) return;
  const char* from = kept_.data() + place_of(row, kept_rows_) * bytes_kept();
  for (const auto& run : earlier_) {
    const auto bytes = run.count() * number_bytes_;
    std::memcpy(static_cast<char*>(numbers) + run.begin * number_bytes_, from, static_cast<std::size_t>(bytes));
    from += bytes;
  }
}

}  // namespace hessian_mpi::layers
