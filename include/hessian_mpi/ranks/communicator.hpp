#pragma once
/// The ranks of the job: the one module that knows MPI, but for the handle that parallel HDF5 needs.

#include <mpi.h>

#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi::ranks {

/// MPI from construction to destruction; one per process, in main.
class MpiSession {
 public:
  MpiSession(int& argc, char**& argv);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
};

/// "Open MPI 4.1.4", "MPICH 4.0.2": the library in use.
std::string mpi_library_version();

/// Whether all ranks come back from a collective write that has failed on one of them. Open MPI's do; ROMIO's, which
/// MPICH and what is made of it have, wait for ever for the one that left.
bool returns_from_failed_writes();

/// An error that all ranks have learned of and all throw: what Communicator::together() ends in.
class AgreedError : public Error {
 public:
  AgreedError(ExitCode code, const std::string& message) : Error(code, message) {}
};

/// A group of ranks that act together. Does not own the MPI handle of world; owns the one of its node. Collective calls
/// are marked so: every rank of the communicator calls them, in the same order.
class Communicator {
 public:
  /// All ranks of the job. Collective over MPI_COMM_WORLD.
  static Communicator world();
  ~Communicator();
  Communicator(Communicator&& other) noexcept;
  Communicator& operator=(Communicator&&) = delete;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool is_root() const { return rank_ == 0; }
  int rank_on_node() const { return rank_on_node_; }
  int ranks_on_node() const { return ranks_on_node_; }
  const std::string& host() const { return host_; }
  MPI_Comm handle() const { return communicator_; }

  /// Not collective. From now on MPI cannot be finalised, and the ranks are to end by abort_all_ranks(): what a library
  /// does collectively was left in the middle, and the next of it would wait for ever. Said by whoever leaves it so.
  void forbid_finalising() const { finalisable_ = false; }
  bool can_be_finalised() const { return finalisable_; }

  /// Collective. Waits for all ranks.
  void wait_for_all() const;
  /// Collective. The sum, smallest, largest of all ranks' values, on all ranks.
  std::int64_t sum(std::int64_t value) const;
  std::int64_t min(std::int64_t value) const;
  std::int64_t max(std::int64_t value) const;
  double max(double value) const;
  /// Collective. The largest of all ranks' values in each place; all have as many. One exchange for several questions.
  std::vector<std::int64_t> max(std::vector<std::int64_t> values) const;
  /// Collective. The sum of all ranks' values in each place; all have as many. The same bits on all ranks.
  std::vector<double> sum(std::vector<double> values) const;
  /// Collective. The vectors of all ranks, joined in the order of ranks, on all ranks.
  std::vector<std::uint64_t> join(const std::vector<std::uint64_t>& values) const;
  /// Collective. Those of the ranks of this rank's node.
  std::vector<std::uint64_t> join_on_node(const std::vector<std::uint64_t>& values) const;
  /// Collective. Completes an array of which every rank holds a piece, on all ranks. begins: where the piece of each
  /// rank begins, in bytes, and at last where the array ends; the same on all ranks. As large as memory has room for.
  void complete(char* bytes, const std::vector<std::int64_t>& begins) const;
  /// Collective. Hands to each rank bytes of its own, counts[r] of them to rank r, in order; returns what the others
  /// handed to this one, in the order of ranks. At most 1 GiB in all from a rank, and to a rank.
  std::vector<char> exchange(const std::vector<char>& bytes, const std::vector<int>& counts) const;

  /// Bytes for another rank, where they lie; and memory for those from another.
  struct Outgoing {
    int rank;
    const char* bytes;
    std::int64_t count;
  };
  struct Incoming {
    int rank;
    char* bytes;
    std::int64_t count;
  };
  /// Collective. Brings each message from where it lies to where it goes. Of two ranks one lists as outgoing what the
  /// other lists as incoming, in the same order; at most 1 GiB each.
  void exchange(const std::vector<Outgoing>& outgoing, const std::vector<Incoming>& incoming) const;
  /// Collective. Root's string, on all ranks.
  std::string from_root(std::string value) const;

  /// Collective. Runs step on every rank and returns its result. If it throws anywhere, throws on ALL ranks, as
  /// AgreedError, the error of the first rank that failed: the message names that rank and its host unless all ranks
  /// failed. So no rank waits in a collective call for one that has left. std::bad_alloc becomes RunError "out of
  /// memory".
  template <class Step>
  auto together(Step&& step) const -> std::invoke_result_t<Step>;

  /// Collective. Runs step on root alone. If it throws, throws on ALL ranks, as AgreedError with the same message.
  template <class Step>
  void on_root(Step&& step) const {
    std::optional<Failure> failure;
    if (is_root()) failure = failure_in(std::forward<Step>(step));
    throw_if_any_failed(failure, /*asked=*/1);
  }

 private:
  struct Failure {
    ExitCode code;
    std::string message;
  };
  explicit Communicator(MPI_Comm communicator);
  static Failure failure_of(const std::exception_ptr& error);
  // What step threw, if it did.
  template <class Step>
  static std::optional<Failure> failure_in(Step&& step) {
    try {
      std::forward<Step>(step)();
    } catch (...) {
      return failure_of(std::current_exception());
    }
    return std::nullopt;
  }
  // asked: how many ranks were to do what failed; where all of them failed, the message names none.
  void throw_if_any_failed(const std::optional<Failure>& failure, int asked) const;

  MPI_Comm communicator_ = MPI_COMM_NULL;
  MPI_Comm node_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  int rank_on_node_ = 0;
  int ranks_on_node_ = 1;
  std::string host_;
  mutable bool finalisable_ = true;  // of MPI, of which this is a handle
};

/// Ends all ranks at once, from any one: for errors where ranks can no longer agree.
[[noreturn]] void abort_all_ranks(ExitCode code);

template <class Step>
auto Communicator::together(Step&& step) const -> std::invoke_result_t<Step> {
  using Result = std::invoke_result_t<Step>;
  if constexpr (std::is_void_v<Result>) {
    throw_if_any_failed(failure_in(std::forward<Step>(step)), size_);
  } else {
    std::optional<Result> result;
    throw_if_any_failed(failure_in([&] { result.emplace(std::forward<Step>(step)()); }), size_);
    return std::move(*result);
  }
}

}  // namespace hessian_mpi::ranks
