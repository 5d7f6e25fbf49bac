#include "hessian_mpi/layers/earlier_columns.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/engines/tile.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/matrix/runs.hpp"

namespace hessian_mpi::layers {
namespace {

constexpr std::int64_t most_received = 1 << 30;    // see Communicator::exchange
constexpr std::int64_t most_rows_of_piece = 64;    // so that columns of it are neighbours in a page of memory
constexpr std::int64_t most_exchanged = 32 << 20;  // bytes from and to a rank at once

// [columns][rows] of what is [rows][columns], rows lying so many numbers apart.
void transpose(std::int64_t number_bytes, const char* from, std::int64_t row_step, std::int64_t rows,
               std::int64_t columns, char* to) {
  const auto of = [&](const auto* numbers, auto* transposed) {
    engines::transpose(numbers, row_step, rows, columns, transposed, rows);
  };
  if (number_bytes == sizeof(float)) {
    of(reinterpret_cast<const float*>(from), reinterpret_cast<float*>(to));
  } else {
    of(reinterpret_cast<const double*>(from), reinterpret_cast<double*>(to));
  }
}

}  // namespace

EarlierColumns::EarlierColumns(std::vector<Rows> earlier, std::vector<std::vector<Rows>> wanted, int rank,
                               Precision storage)
    : earlier_(std::move(earlier)),
      wanted_(std::move(wanted)),
      rank_(static_cast<std::size_t>(rank)),
      number_bytes_(static_cast<std::int64_t>(bytes_of(storage))),
      earlier_count_(matrix::count_of(earlier_)) {
  wanted_begins_.push_back(0);
  for (const auto& runs : wanted_) wanted_begins_.push_back(wanted_begins_.back() + matrix::count_of(runs));
}

void EarlierColumns::note(const Rows& rows, const void* numbers, std::int64_t numbers_of_row,
                          std::int64_t first_column) {
  const auto at_once = std::clamp<std::int64_t>(most_exchanged / bytes_exchanged(wanted_), 1, most_rows_of_piece);
  const auto bytes = static_cast<std::size_t>(rows.count() * bytes_noted());
  char* to = numbers_noted_.emplace_back(std::make_unique_for_overwrite<char[]>(bytes)).get();
  const char* from = static_cast<const char*>(numbers);
  for (auto row = rows.begin; row < rows.end; row += at_once) {
    const Rows some{row, std::min(rows.end, row + at_once)};
    noted_.push_back({some, to});
    for (const auto& runs : wanted_) {
      for (const auto& run : runs) {
        transpose(number_bytes_, from + (run.begin - first_column) * number_bytes_, numbers_of_row, some.count(),
                  run.count(), to);
        to += run.count() * some.count() * number_bytes_;
      }
    }
    from += some.count() * numbers_of_row * number_bytes_;
  }
}

void EarlierColumns::note_in_file(const Rows& rows) {
  matrix::append_run(rows, noted_in_file_);
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

// Of a row that each rank sends: the most that one of them sends or gets.
std::int64_t EarlierColumns::bytes_exchanged(const std::vector<std::vector<Rows>>& some) const {
  std::int64_t all = 0;
  std::int64_t largest = 0;
  for (const auto& runs : some) {
    all += matrix::count_of(runs);
    largest = std::max(largest, matrix::count_of(runs) * static_cast<std::int64_t>(some.size()));
  }
  return std::max({all, largest, std::int64_t{1}}) * number_bytes_;
}

// Pieces that have about so many rows in each round.
auto EarlierColumns::noted_in_rounds(std::int64_t at_once) const -> std::vector<Pieces> {
  Pieces pieces = noted_;
  for (const auto& run : noted_in_file_) {
    for (auto row = run.begin; row < run.end; row += at_once) {
      pieces.push_back({{row, std::min(run.end, row + at_once)}, nullptr});
    }
  }
  std::vector<Pieces> rounds;
  std::int64_t left = 0;
  for (const auto& piece : pieces) {
    if (left <= 0) {
      rounds.emplace_back();
      left = at_once;
    }
    rounds.back().push_back(piece);
    left -= piece.rows.count();
  }
  return rounds;
}

// What some of a rank's rows want of noted ones, [these rows][noted rows]: where it lies, if all are asked for, or put
// together in memory.
const char* EarlierColumns::columns_of(const Piece& noted, std::size_t rank, const std::vector<Rows>& some,
                                       const ReadRows& read, Memory& memory) const {
  const auto bytes_of_column = noted.rows.count() * number_bytes_;
  if (noted.numbers != nullptr && some == wanted_[rank]) return noted.numbers + wanted_begins_[rank] * bytes_of_column;
  const auto bytes = static_cast<std::size_t>(matrix::count_of(some) * bytes_of_column);
  char* const columns = memory.emplace_back(std::make_unique_for_overwrite<char[]>(bytes)).get();
  char* to = columns;
  std::vector<char> rows;
  for (const auto& run : some) {
    if (noted.numbers != nullptr) {
      const auto place = wanted_begins_[rank] + matrix::place_of(run.begin, wanted_[rank]);
      std::copy_n(noted.numbers + place * bytes_of_column, run.count() * bytes_of_column, to);
    } else {
      rows.resize(static_cast<std::size_t>(run.count() * bytes_of_column));
      read(noted.rows, run, rows.data());
      transpose(number_bytes_, rows.data(), run.count(), noted.rows.count(), run.count(), to);
    }
    to += run.count() * bytes_of_column;
  }
  return columns;
}

// Collective. Hands noted rows to the other ranks, from where they lie, and keeps what these hand to this one.
void EarlierColumns::send(const Pieces& noted, const std::vector<std::vector<Rows>>& some, const ReadRows& read,
                          const ranks::Communicator& communicator) {
  Memory memory;
  std::vector<ranks::Communicator::Outgoing> outgoing;
  std::vector<char> names;
  std::vector<int> counts;
  communicator.together([&] {
    for (const auto& piece : noted) {
      keep({piece.rows, columns_of(piece, rank_, kept_rows_, read, numbers_kept_)});
    }
    for (std::size_t rank = 0; rank < some.size(); ++rank) {
      const auto before = names.size();
      for (const auto& piece : rank == rank_ ? Pieces() : noted) {
        if (const auto rows = matrix::count_of(some[rank]); rows > 0) {
          outgoing.push_back({static_cast<int>(rank), columns_of(piece, rank, some[rank], read, memory),
                              rows * piece.rows.count() * number_bytes_});
        }
        const NotedBy name{static_cast<std::int64_t>(rank_), piece.rows};
        const auto* const bytes = reinterpret_cast<const char*>(&name);
        names.insert(names.end(), bytes, bytes + sizeof(name));
      }
      counts.push_back(static_cast<int>(names.size() - before));
    }
  });
  const auto received = communicator.exchange(names, counts);
  std::vector<ranks::Communicator::Incoming> incoming;
  communicator.together([&] {
    std::vector<NotedBy> pieces(received.size() / sizeof(NotedBy));
    if (!pieces.empty()) std::memcpy(pieces.data(), received.data(), received.size());
    incoming = keep(pieces);
  });
  communicator.exchange(outgoing, incoming);
}

// Memory for pieces that others have noted, by who has.
std::vector<ranks::Communicator::Incoming> EarlierColumns::keep(const std::vector<NotedBy>& pieces) {
  std::int64_t numbers = 0;
  for (const auto& piece : pieces) numbers += matrix::count_of(kept_rows_) * piece.rows.count();
  char* to =
      numbers_kept_
          .emplace_back(std::make_unique_for_overwrite<char[]>(static_cast<std::size_t>(numbers * number_bytes_)))
          .get();
  std::vector<ranks::Communicator::Incoming> incoming;
  for (const auto& [rank, rows] : pieces) {
    keep({rows, to});
    const auto bytes = matrix::count_of(kept_rows_) * rows.count() * number_bytes_;
    if (bytes > 0) incoming.push_back({static_cast<int>(rank), to, bytes});
    to += bytes;
  }
  return incoming;
}

void EarlierColumns::keep(const Piece& piece) {
  kept_.push_back(piece);
  const auto first = found_.begin() + matrix::place_of(piece.rows.begin, earlier_);
  std::fill(first, first + piece.rows.count(), true);
}

void EarlierColumns::exchange(const std::vector<std::vector<Rows>>& some, const ReadRows& read,
                              const ranks::Communicator& communicator) {
  std::vector<Pieces> rounds;
  communicator.together([&] {
    const auto bytes = bytes_exchanged(some);
    if (bytes > most_received) throw RunError("too many rows of one step on one rank: take more ranks");
    rounds = noted_in_rounds(std::max<std::int64_t>(1, most_exchanged / bytes));
    kept_rows_ = some[rank_];
    kept_.clear();
    numbers_kept_.clear();
    found_.assign(static_cast<std::size_t>(earlier_count_), false);
  });
  rounds.resize(static_cast<std::size_t>(communicator.max(static_cast<std::int64_t>(rounds.size()))));
  for (const auto& noted : rounds) send(noted, some, read, communicator);
  communicator.together([&] {
    if (std::find(found_.begin(), found_.end(), false) != found_.end()) {
      throw RunError("a row that others need as a column was made on no rank");
    }
  });
}

void EarlierColumns::fill(const Rows& rows, void* numbers, std::int64_t numbers_of_row) const {
  for (const auto& run : kept_rows_) {
    const Rows some{std::max(rows.begin, run.begin), std::min(rows.end, run.end)};
    if (some.count() <= 0) continue;
    const auto place = matrix::place_of(some.begin, kept_rows_);
    char* const first = static_cast<char*>(numbers) + (some.begin - rows.begin) * numbers_of_row * number_bytes_;
    for (const auto& piece : kept_) {
      const auto bytes = piece.rows.count() * number_bytes_;
      const char* from = piece.numbers + place * bytes;
      char* to = first + piece.rows.begin * number_bytes_;
      for (auto row = some.begin; row < some.end; ++row, from += bytes, to += numbers_of_row * number_bytes_) {
        std::memcpy(to, from, static_cast<std::size_t>(bytes));
      }
    }
  }
}

}  // namespace hessian_mpi::layers
