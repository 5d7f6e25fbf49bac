#pragma once
/// Rows that were made in earlier steps, as columns of the rows of a later one: H is symmetric. Each such row is made
/// once in the whole job, on whichever rank, and its numbers go to the ranks whose rows need them.

#include <cstdint>
#include <functional>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::layers {

class EarlierColumns {
 public:
  /// earlier: the rows that are made earlier, in order. wanted: for each rank the rows that are to have them as
  /// columns, in order; the same on all ranks. rank: this one. Both as runs of neighbours.
  EarlierColumns(std::vector<Rows> earlier, std::vector<std::vector<Rows>> wanted, int rank, Precision storage);

  /// Not collective. Notes an earlier row: numbers of the storage precision, of all columns or from one on as far as
  /// any rank wants them. A row may be noted on several ranks, with the same numbers.
  void note(std::int64_t row, const void* numbers, std::int64_t first_column = 0);
  /// From the first column that a rank wants of earlier rows to the end of the last.
  Rows columns() const;
  /// Not collective. The same of a row that the file has, from where this rank reads it when it is exchanged.
  void note_in_file(std::int64_t row) { noted_.push_back({row, {}}); }

  /// Reads some columns of rows that the file has: [rows][columns], in numbers of the storage precision.
  using ReadRows = std::function<void(const Rows& rows, const Rows& columns, char* numbers)>;

  /// Collective. Brings to each rank what these of its rows need, in the place of what an earlier call has brought.
  /// some: for each rank, of those that it is to have, in order; the same on all ranks. read: of what was noted as in
  /// the file. Every earlier row has been noted on some rank; otherwise throws RunError there where it is missed.
  void exchange(const std::vector<std::vector<Rows>>& some, const ReadRows& read,
                const ranks::Communicator& communicator);
  /// Collective. All rows at once, none of which is in a file. Forgets what was noted.
  void exchange(const ranks::Communicator& communicator);

  /// Puts the columns into one of this rank's rows of N numbers; into a row that was not exchanged, nothing.
  void fill(std::int64_t row, void* numbers) const;

  /// Bytes that note() keeps for a row, and fill() for one.
  std::int64_t bytes_noted() const { return wanted_begins_.back() * number_bytes_; }
  std::int64_t bytes_kept() const { return earlier_count_ * number_bytes_; }

 private:
  /// For each rank the numbers that it wants; none where the file has them.
  struct Noted {
    std::int64_t row;
    std::vector<char> numbers;
  };
  // Collective. Those of the noted rows from one to another.
  void send(std::size_t begin, std::size_t end, const std::vector<std::vector<Rows>>& some, const ReadRows& read,
            const ranks::Communicator& communicator);
  void append(std::size_t begin, std::size_t end, std::size_t rank, const std::vector<Rows>& runs, const ReadRows& read,
              std::vector<char>& numbers) const;
  template <class Number>
  void keep(const std::vector<std::int64_t>& rows, const Number* numbers);

  std::vector<Rows> earlier_;
  std::vector<std::vector<Rows>> wanted_;
  std::vector<std::int64_t> wanted_begins_;  // of each rank among the numbers of a noted row, and the end
  std::size_t rank_;
  std::int64_t number_bytes_;
  std::int64_t earlier_count_;
  std::vector<Noted> noted_;
  std::vector<Rows> kept_rows_;  // of this rank
  std::vector<char> kept_;       // for each of them its numbers in all earlier columns
  std::vector<bool> found_;      // of all earlier rows, those that are kept
};

/// How many rows some runs have, and the place of a row of them.
std::int64_t count_of(const std::vector<Rows>& runs);
std::int64_t place_of(std::int64_t row, const std::vector<Rows>& runs);

}  // namespace hessian_mpi::layers
