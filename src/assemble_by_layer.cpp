#include "hessian_mpi/assemble_by_layer.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

#include "hessian_mpi/hessian_rows.hpp"
#include "hessian_mpi/layer_factors.hpp"

namespace hessian_mpi {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void append(const Rows& rows, std::vector<Rows>& runs) {
  if (rows.count() <= 0) return;
  if (!runs.empty() && runs.back().end == rows.begin) {
    runs.back().end = rows.end;
  } else {
    runs.push_back(rows);
  }
}

// Rows of the parameters that are factored, or of those that are not.
std::vector<Rows> rows_where(const Problem& problem, const LayerPlan& plan, bool factored) {
  std::vector<Rows> runs;
  const auto& entries = problem.index().entries();
  for (std::size_t p = 0; p < entries.size(); ++p) {
    if (plan.is_factored(p) == factored) append({entries[p].offset, entries[p].offset + entries[p].size}, runs);
  }
  return runs;
}

std::vector<Rows> common(const std::vector<Rows>& runs, const std::vector<Rows>& others) {
  std::vector<Rows> both;
  for (const auto& run : runs) {
    for (const auto& other : others) append({std::max(run.begin, other.begin), std::min(run.end, other.end)}, both);
  }
  return both;
}

std::vector<Rows> without(const std::vector<Rows>& runs, const std::vector<Rows>& others) {
  std::vector<Rows> left;
  for (const auto& run : runs) {
    auto begin = run.begin;
    for (const auto& other : others) {
      if (other.end <= begin || other.begin >= run.end) continue;
      append({begin, other.begin}, left);
      begin = std::max(begin, other.end);
    }
    append({begin, run.end}, left);
  }
  return left;
}

std::vector<Rows> rows_of(const BlockGrid& grid, const BlockList& blocks) {
  std::vector<Rows> runs;
  for (const auto b : blocks) append(grid.block(b), runs);
  return runs;
}

// The share of a rank of some rows, as single rows.
std::vector<std::int64_t> share_of(const std::vector<Rows>& runs, int rank, int ranks) {
  std::vector<std::int64_t> all;
  for (const auto& run : runs) {
    for (auto row = run.begin; row < run.end; ++row) all.push_back(row);
  }
  return share_of_rank(all, rank, ranks);
}

/// Makes rows by another engine and notes each of them as a column.
class NotingEngine final : public Engine {
 public:
  NotingEngine(Engine& engine, PlainColumns& columns, const MatrixShape& matrix)
      : engine_(engine), columns_(columns), bytes_of_row_(matrix.bytes_of_row()) {}
  std::string name() const override { return engine_.name(); }
  std::int64_t rows_at_once() const override { return engine_.rows_at_once(); }
  std::uint64_t bytes_per_row() const override { return engine_.bytes_per_row(); }
  void compute(const Rows& rows, Precision storage, void* out, const std::function<void(double)>& advance) override {
    engine_.compute(rows, storage, out, advance);
    for (auto row = rows.begin; row < rows.end; ++row) {
      columns_.note(row, static_cast<const char*>(out) + (row - rows.begin) * bytes_of_row_);
    }
  }

 private:
  Engine& engine_;
  PlainColumns& columns_;
  std::int64_t bytes_of_row_;
};

std::int64_t block_of(const BlockGrid& grid, std::int64_t row) {
  std::int64_t first = 0;
  std::int64_t last = grid.count();
  while (first < last) {
    const auto middle = first + (last - first) / 2;
    grid.block(middle).end <= row ? first = middle + 1 : last = middle;
  }
  return first;
}

}  // namespace

LayeredAssembly::LayeredAssembly(const Problem& problem, const LayerPlan& plan, const MatrixShape& matrix,
                                 const BlockList& missing, Precision accumulate, const Communicator& communicator)
    : problem_(problem),
      plan_(plan),
      matrix_(matrix),
      accumulate_(accumulate),
      communicator_(communicator),
      phases_(2),
      plain_(rows_where(problem, plan, false)),
      row_by_row_(problem) {
  const auto factored = rows_where(problem, plan, true);
  for (const auto b : missing) {
    phases_[common({matrix.grid.block(b)}, factored).empty() ? 0 : 1].push_back(b);
  }
  if (!factors_needed()) return;
  loose_ = without(plain_, rows_of(matrix.grid, phases_[0]));
  std::vector<std::vector<Rows>> wanted;
  for (int rank = 0; rank < communicator.size(); ++rank) {
    const auto share = share_of_rank(phases_[1], rank, communicator.size());
    wanted.push_back(common(rows_of(matrix.grid, share), factored));
  }
  own_ = wanted[static_cast<std::size_t>(communicator.rank())];
  columns_.emplace(plain_, std::move(wanted), communicator.rank(), matrix.storage);
}

std::uint64_t LayeredAssembly::bytes(std::uint64_t factors) const {
  if (!factors_needed()) return 0;
  const auto noted = (count_of(plain_) + communicator_.size() - 1) / communicator_.size() * columns_->bytes_noted();
  const auto kept = count_of(own_) * columns_->bytes_kept();
  return static_cast<std::uint64_t>(noted + kept) + factors;
}

int LayeredAssembly::prepare(const std::filesystem::path& file, const std::vector<BlockRecord>& records,
                             const StopRequest& stop) {
  if (!factors_needed()) return 0;
  const auto mine = share_of(loose_, communicator_.rank(), communicator_.size());
  std::size_t done = 0;
  const auto take_in = [&](std::int64_t row, std::vector<char>& numbers) {
    const Rows one{row, row + 1};
    const Rows& part = matrix_.grid.part();
    const bool inside = row >= part.begin && row < part.end;
    if (inside && records[static_cast<std::size_t>(block_of(matrix_.grid, row))].on_disk) {
      numbers = HessianReader(file).bytes(one, matrix_);
    } else {
      numbers.resize(static_cast<std::size_t>(matrix_.bytes_of_row()));
      row_by_row_.compute(one, matrix_.storage, numbers.data(), [](double) {});
    }
    columns_->note(row, numbers.data());
  };
  while (true) {
    const auto left = static_cast<std::int64_t>(mine.size() - done);
    const auto agreed = communicator_.max({left, std::int64_t{stop.reason()}});
    if (agreed[0] == 0 || agreed[1] != 0) return static_cast<int>(agreed[1]);
    communicator_.together([&] {
      const auto start = Clock::now();
      std::vector<char> numbers;
      while (done < mine.size() && seconds_since(start) < 1) take_in(mine[done++], numbers);
    });
  }
}

Assembled LayeredAssembly::assemble(std::int64_t blocks_at_once, std::uint64_t memory, HessianWriter& writer,
                                    Checkpoint& checkpoint, const StopRequest& stop, Progress& progress) {
  if (!factors_needed()) {
    return hessian_mpi::assemble(row_by_row_, {matrix_, phases_[0], blocks_at_once}, writer, checkpoint, stop,
                                 communicator_, progress);
  }
  Assembled result;
  if (!phases_[0].empty()) {
    NotingEngine noting(row_by_row_, *columns_, matrix_);
    result = hessian_mpi::assemble(noting, {matrix_, phases_[0], blocks_at_once}, writer, checkpoint, stop,
                                   communicator_, progress);
    if (result.stopped != 0) return result;
  }
  const auto start = Clock::now();
  columns_->exchange(communicator_);
  LayerFactors factors(problem_, plan_, own_, *columns_, accumulate_, memory, communicator_);
  result.compute_seconds += seconds_since(start);
  auto rest = hessian_mpi::assemble(factors, {matrix_, phases_[1], blocks_at_once}, writer, checkpoint, stop,
                                    communicator_, progress);
  rest.compute_seconds += result.compute_seconds;
  rest.write_seconds += result.write_seconds;
  rest.checkpoint_seconds += result.checkpoint_seconds;
  rest.nonfinite_rows.insert(rest.nonfinite_rows.begin(), result.nonfinite_rows.begin(), result.nonfinite_rows.end());
  return rest;
}

}  // namespace hessian_mpi
