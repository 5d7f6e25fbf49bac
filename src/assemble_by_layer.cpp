#include "hessian_mpi/assemble_by_layer.hpp"

#include <algorithm>
#include <utility>

#include "hessian_mpi/hessian_rows.hpp"
#include "hessian_mpi/layer_factors.hpp"
#include "hessian_mpi/stopwatch.hpp"

namespace hessian_mpi {
namespace {

std::vector<Rows> common(const std::vector<Rows>& runs, const std::vector<Rows>& others) {
  std::vector<Rows> both;
  for (const auto& run : runs) {
    for (const auto& other : others) append_run({std::max(run.begin, other.begin), std::min(run.end, other.end)}, both);
  }
  return both;
}

std::vector<Rows> without(const std::vector<Rows>& runs, const std::vector<Rows>& others) {
  std::vector<Rows> left;
  for (const auto& run : runs) {
    auto begin = run.begin;
    for (const auto& other : others) {
      if (other.end <= begin || other.begin >= run.end) continue;
      append_run({begin, other.begin}, left);
      begin = std::max(begin, other.end);
    }
    append_run({begin, run.end}, left);
  }
  return left;
}

std::vector<Rows> rows_of(const BlockGrid& grid, const BlockList& blocks) {
  std::vector<Rows> runs;
  for (const auto b : blocks) append_run(grid.block(b), runs);
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

}  // namespace

LayeredAssembly::LayeredAssembly(const Problem& problem, const LayerPlan& plan, const MatrixShape& matrix,
                                 const BlockList& missing, Precision accumulate, const Communicator& communicator)
    : problem_(problem),
      plan_(plan),
      matrix_(matrix),
      accumulate_(accumulate),
      communicator_(communicator),
      phases_(2),
      plain_(rows_of(plan, problem.index(), false)),
      row_by_row_(problem) {
  const auto factored = rows_of(plan, problem.index(), true);
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
  std::optional<HessianReader> reader;
  const auto is_in_file = [&](std::int64_t row) {
    const Rows& part = matrix_.grid.part();
    if (row < part.begin || row >= part.end) return false;
    return records[static_cast<std::size_t>(matrix_.grid.block_of(row))].on_disk;
  };
  // Neighbours that come from the same source, as many as are worth a call.
  const auto take_in = [&](std::size_t first) {
    const bool in_file = is_in_file(mine[first]);
    Rows rows{mine[first], mine[first] + 1};
    for (auto k = first + 1; k < mine.size() && mine[k] == rows.end && is_in_file(mine[k]) == in_file; ++k) {
      if (rows.count() == row_by_row_.rows_at_once()) break;
      ++rows.end;
    }
    std::vector<char> numbers;
    if (in_file) {
      if (!reader) reader.emplace(file);
      numbers = reader->bytes(rows, matrix_);
    } else {
      numbers.resize(static_cast<std::size_t>(rows.count() * matrix_.bytes_of_row()));
      row_by_row_.compute(rows, matrix_.storage, numbers.data(), [](double) {});
    }
    for (auto row = rows.begin; row < rows.end; ++row) {
      columns_->note(row, numbers.data() + (row - rows.begin) * matrix_.bytes_of_row());
    }
    return static_cast<std::size_t>(rows.count());
  };
  std::size_t done = 0;
  while (true) {
    const auto left = static_cast<std::int64_t>(mine.size() - done);
    const auto agreed = communicator_.max({left, std::int64_t{stop.reason()}});
    if (agreed[0] == 0 || agreed[1] != 0) return static_cast<int>(agreed[1]);
    communicator_.together([&] {
      const Stopwatch watch;
      while (done < mine.size() && watch.seconds() < 1) done += take_in(done);
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
  const Stopwatch watch;
  columns_->exchange(communicator_);
  LayerFactors factors(problem_, plan_, own_, *columns_, row_by_row_, accumulate_, memory, communicator_);
  result.compute_seconds += watch.seconds();
  auto rest = hessian_mpi::assemble(factors, {matrix_, phases_[1], blocks_at_once}, writer, checkpoint, stop,
                                    communicator_, progress);
  rest.compute_seconds += result.compute_seconds;
  rest.write_seconds += result.write_seconds;
  rest.checkpoint_seconds += result.checkpoint_seconds;
  rest.nonfinite_rows.insert(rest.nonfinite_rows.begin(), result.nonfinite_rows.begin(), result.nonfinite_rows.end());
  return rest;
}

}  // namespace hessian_mpi
