#pragma once
/// Rows that were made in earlier steps, as columns of the rows of a later one: H is symmetric. Each such row is made
/// once in the whole job, on whichever rank, and its numbers go to the ranks whose rows need them.

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::layers {

class EarlierColumns {
 public:
  /// earlier: the rows that are made earlier, in order. wanted: for each rank the rows that are to have them as
  /// columns, in order; the same on all ranks. rank: this one. Both as runs of neighbours.
  EarlierColumns(std::vector<Rows> earlier, std::vector<std::vector<Rows>> wanted, int rank, Precision storage);

  /// Not collective. Notes earlier rows that are neighbours: numbers of the storage precision, [rows][numbers_of_row],
  /// of all columns or from one on, as far as any rank wants them. A row may be noted on several ranks, with the same
  /// numbers.
  void note(const Rows& rows, const void* numbers, std::int64_t numbers_of_row, std::int64_t first_column = 0);
  /// From the first column that a rank wants of earlier rows to the end of the last.
  Rows columns() const;
  /// Not collective. The same of rows that the file has, from where this rank reads them when they are exchanged.
  void note_in_file(const Rows& rows);

  /// Reads some columns of rows that the file has: [rows][columns], in numbers of the storage precision.
  using ReadRows = std::function<void(const Rows& rows, const Rows& columns, char* numbers)>;

  /// Collective. Brings to each rank what these of its rows need, in the place of what an earlier call has brought.
  /// some: for each rank, of those that it is to have, in order; the same on all ranks. read: of what was noted as in
  /// the file. Every earlier row has been noted on some rank; otherwise throws RunError there where it is missed.
  void exchange(const std::vector<std::vector<Rows>>& some, const ReadRows& read,
                const ranks::Communicator& communicator);
  /// Collective. All rows at once, none of which is in a file.
  void exchange(const ranks::Communicator& communicator) { exchange(wanted_, {}, communicator); }

  /// Puts the columns into some of this rank's rows, neighbours: numbers of the first one, which has N of them, the
  /// others so many after it. Into rows that were not exchanged, nothing.
  void fill(const Rows& rows, void* numbers, std::int64_t numbers_of_row) const;

  /// Bytes that note() keeps for a row, and those that fill() needs for one. Those of rows that this rank has noted are
  /// not kept again where all rows are exchanged at once.
  std::int64_t bytes_noted() const { return wanted_begins_.back() * number_bytes_; }
  std::int64_t bytes_kept() const { return earlier_count_ * number_bytes_; }

 private:
  /// Earlier rows that are neighbours, as columns: [rows that want them][rows].
  struct Piece {
    Rows rows;
    const char* numbers = nullptr;  ///< none where the file has them
  };
  using Pieces = std::vector<Piece>;
  std::int64_t bytes_exchanged(const std::vector<std::vector<Rows>>& some) const;
  std::vector<Pieces> noted_in_rounds(std::int64_t at_once) const;
  using Memory = std::vector<std::unique_ptr<char[]>>;
  const char* columns_of(const Piece& noted, std::size_t rank, const std::vector<Rows>& some, const ReadRows& read,
                         Memory& memory) const;
  void send(const Pieces& noted, const std::vector<std::vector<Rows>>& some, const ReadRows& read,
            const ranks::Communicator& communicator);
  /// Rows that a rank has noted.
  struct NotedBy {
    std::int64_t rank;
    Rows rows;
  };
  std::vector<ranks::Communicator::Incoming> keep(const std::vector<NotedBy>& pieces);
  void keep(const Piece& piece);

  std::vector<Rows> earlier_;
  std::vector<std::vector<Rows>> wanted_;
  std::vector<std::int64_t> wanted_begins_;  // of each rank among all that is wanted, and the end
  std::size_t rank_;
  std::int64_t number_bytes_;
  std::int64_t earlier_count_;
  Memory numbers_noted_;
  Pieces noted_;  // for all that is wanted
  std::vector<Rows> noted_in_file_;
  std::vector<Rows> kept_rows_;  // of this rank
  Memory numbers_kept_;          // that do not lie where they were noted
  Pieces kept_;                  // for these rows
  std::vector<bool> found_;      // of all earlier rows, those that are kept
};

}  // namespace hessian_mpi::layers
