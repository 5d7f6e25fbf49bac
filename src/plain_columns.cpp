#include "hessian_mpi/plain_columns.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "hessian_mpi/error.hpp"

namespace hessian_mpi {
namespace {

constexpr std::int64_t most_exchanged = 256 << 20;  // bytes from and to a rank at once

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

PlainColumns::PlainColumns(std::vector<Rows> plain, std::vector<std::vector<Rows>> wanted, int rank, Precision storage)
    : plain_(std::move(plain)),
      wanted_(std::move(wanted)),
      rank_(static_cast<std::size_t>(rank)),
      number_bytes_(static_cast<std::int64_t>(bytes_of(storage))),
      plain_count_(count_of(plain_)),
      wanted_count_(0) {
  for (const auto& runs : wanted_) wanted_count_ += count_of(runs);
}

void PlainColumns::note(std::int64_t row, const void* numbers) {
  noted_rows_.push_back(row);
  const char* const bytes = static_cast<const char*>(numbers);
  for (const auto& runs : wanted_) {
    for (const auto& run : runs) {
      noted_.insert(noted_.end(), bytes + run.begin * number_bytes_, bytes + run.end * number_bytes_);
    }
  }
}

// numbers: of a plain row, in the columns that are this rank's rows.
void PlainColumns::keep(std::int64_t row, const char* numbers) {
  const auto column = place_of(row, plain_);
  const auto own = count_of(wanted_[rank_]);
  for (std::int64_t i = 0; i < own; ++i) {
    std::memcpy(kept_.data() + (i * plain_count_ + column) * number_bytes_, numbers + i * number_bytes_,
                static_cast<std::size_t>(number_bytes_));
  }
}

void PlainColumns::exchange(const Communicator& communicator) {
  const auto ranks = wanted_.size();
  std::int64_t largest = 1;
  for (const auto& runs : wanted_) largest = std::max(largest, count_of(runs) * static_cast<std::int64_t>(ranks));
  const auto at_once = std::max<std::int64_t>(1, most_exchanged / (std::max(largest, wanted_count_) * number_bytes_));
  communicator.together([&] { kept_.resize(static_cast<std::size_t>(count_of(wanted_[rank_]) * bytes_kept())); });
  const auto noted = static_cast<std::int64_t>(noted_rows_.size());
  std::vector<bool> found(static_cast<std::size_t>(plain_count_), false);
  const auto rounds = (communicator.max(noted) + at_once - 1) / at_once;
  for (std::int64_t round = 0; round < rounds; ++round) {
    const auto begin = std::min(noted, round * at_once);
    const auto end = std::min(noted, begin + at_once);
    std::vector<char> numbers;
    std::vector<char> names;
    std::vector<int> counts;
    std::vector<int> counts_of_names;
    std::int64_t offset = 0;
    for (const auto& runs : wanted_) {
      const auto bytes = count_of(runs) * number_bytes_;
      for (auto k = begin; k < end; ++k) {
        const char* const from = noted_.data() + k * bytes_noted() + offset;
        numbers.insert(numbers.end(), from, from + bytes);
        const auto* const name = reinterpret_cast<const char*>(&noted_rows_[static_cast<std::size_t>(k)]);
        names.insert(names.end(), name, name + sizeof(std::int64_t));
      }
      counts.push_back(static_cast<int>((end - begin) * bytes));
      counts_of_names.push_back(static_cast<int>((end - begin) * static_cast<std::int64_t>(sizeof(std::int64_t))));
      offset += bytes;
    }
    const auto rows = communicator.exchange(names, counts_of_names);
    const auto columns = communicator.exchange(numbers, counts);
    const auto own_bytes = count_of(wanted_[rank_]) * number_bytes_;
    for (std::size_t k = 0; k < rows.size() / sizeof(std::int64_t); ++k) {
      std::int64_t row = 0;
      std::memcpy(&row, rows.data() + k * sizeof(row), sizeof(row));
      keep(row, columns.data() + static_cast<std::int64_t>(k) * own_bytes);
      found[static_cast<std::size_t>(place_of(row, plain_))] = true;
    }
  }
  noted_rows_ = {};
  noted_ = {};
  communicator.together([&] {
    if (std::find(found.begin(), found.end(), false) != found.end()) {
      throw RunError("a row that others need as a column was made on no rank");
    }
  });
}

void PlainColumns::fill(std::int64_t row, void* numbers) const {
  const char* from = kept_.data() + place_of(row, wanted_[rank_]) * bytes_kept();
  for (const auto& run : plain_) {
    const auto bytes = run.count() * number_bytes_;
    std::memcpy(static_cast<char*>(numbers) + run.begin * number_bytes_, from, static_cast<std::size_t>(bytes));
    from += bytes;
  }
}

}  // namespace hessian_mpi
