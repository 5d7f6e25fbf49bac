#include "hessian_mpi/estimate.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "hessian_mpi/assemble.hpp"
#include "hessian_mpi/diagonal.hpp"
#include "hessian_mpi/earlier_columns.hpp"
#include "hessian_mpi/layer_factors.hpp"
#include "hessian_mpi/layer_plan.hpp"
#include "hessian_mpi/problem.hpp"
#include "hessian_mpi/stopwatch.hpp"
#include "hessian_mpi/writeback.hpp"

namespace hessian_mpi {
namespace {

constexpr std::int64_t sampled_plain_rows = 32;
constexpr double seconds_for_plain_rows = 2;
constexpr double numbers_in_a_sample = 4e8;
constexpr std::int64_t largest_trial = 512 << 20;  // bytes, of all ranks
constexpr int trials_of_writing = 2;
constexpr double columns_a_second = 1e9;  // of copies that follow each other, and of a network

std::int64_t common_count(const Rows& one, const Rows& other) {
  return std::max<std::int64_t>(0, std::min(one.end, other.end) - std::max(one.begin, other.begin));
}

/// Computes rows into a buffer that nobody reads, and takes the time.
class Trial {
 public:
  explicit Trial(const MatrixShape& matrix) : matrix_(matrix) {}
  double seconds_for(Engine& engine, const Rows& rows) {
    std::vector<Rows> calls;
    for (auto row = rows.begin; row < rows.end; row = calls.back().end) calls.push_back(call_from(row, rows, engine));
    for (const auto& some : calls) {
      numbers_.resize(std::max(numbers_.size(), static_cast<std::size_t>(matrix_.bytes_of_rows(some))));
    }
    Diagonal diagonal(engine);
    Engine& entries = matrix_.entries == Entries::diagonal ? static_cast<Engine&>(diagonal) : engine;
    nonfinite_rows_.clear();
    const Stopwatch watch;
    for (const auto& some : calls) {
      entries.compute(some, matrix_.columns_of(some.begin), matrix_.storage, numbers_.data(), [](double) {});
      record_of(some, matrix_, numbers_.data(), nonfinite_rows_);
    }
    return watch.seconds();
  }

 private:
  // Rows of one piece, as many as the buffers of a run have.
  Rows call_from(std::int64_t row, const Rows& rows, const Engine& engine) const {
    const auto fitting = buffer_bytes / matrix_.bytes_of_rows({row, row + 1});
    const auto end = std::min(rows.end, row + std::max({std::int64_t{1}, fitting, engine.rows_at_once()}));
    if (matrix_.entries == Entries::all) return {row, end};
    return {row, std::min(end, matrix_.grid.piece(matrix_.grid.piece_of(row)).end)};
  }

  const MatrixShape& matrix_;
  std::vector<char> numbers_;
  std::vector<std::int64_t> nonfinite_rows_;
};

// Seconds of a plain row, from rows spread over all of them.
double seconds_of_plain_row(Engine& engine, const std::vector<Rows>& plain, Trial& trial) {
  std::vector<std::int64_t> rows;
  for (const auto& run : plain) {
    for (auto row = run.begin; row < run.end; ++row) rows.push_back(row);
  }
  if (rows.empty()) return 0;
  trial.seconds_for(engine, {rows.front(), rows.front() + 1});  // which runs the network forward, too
  const auto at_once = engine.rows_at_once();
  const auto samples = std::min<std::int64_t>(sampled_plain_rows, static_cast<std::int64_t>(rows.size()));
  double seconds = 0;
  std::int64_t made = 0;
  for (std::int64_t k = 0; k < samples && (seconds < seconds_for_plain_rows || made == 0); ++k) {
    const auto place = (2 * k + 1) * static_cast<std::int64_t>(rows.size()) / (2 * samples);
    const auto row = rows[static_cast<std::size_t>(place)];
    seconds += trial.seconds_for(engine, {row, std::min(row + at_once, plain.back().end)});
    made += std::min(row + at_once, plain.back().end) - row;
  }
  return seconds / static_cast<double>(made);
}

// Seconds for all rows of a parameter that a stage makes: the first that share passes, with what is made but once, and
// the next for the rest.
double seconds_of_parameter(Engine& engine, const ParameterEntry& entry, std::int64_t together, Trial& trial,
                            std::int64_t columns) {
  const auto most =
      std::max<std::int64_t>(1, static_cast<std::int64_t>(numbers_in_a_sample / static_cast<double>(columns)));
  const auto count = std::min({together, most, entry.size});
  const double first = trial.seconds_for(engine, {entry.offset, entry.offset + count});
  const auto left = entry.size - count;
  if (left == 0) return first;
  const auto begin = entry.offset + std::min(together, entry.size - std::min(count, left));
  const auto next = std::min(count, entry.offset + entry.size - begin);
  const double steady = trial.seconds_for(engine, {begin, begin + next}) / static_cast<double>(next);
  return first + steady * static_cast<double>(left);
}

/// Engines of a plan's steps, whose columns of other steps are zeros.
class SampledSteps {
 public:
  SampledSteps(const Problem& problem, const LayerPlan& plan, const MatrixShape& matrix, Precision accumulate,
               std::uint64_t memory, Engine& row_by_row, const Communicator& communicator)
      : problem_(problem),
        plan_(plan),
        matrix_(matrix),
        accumulate_(accumulate),
        memory_(memory),
        communicator_(communicator),
        row_by_row_(row_by_row),
        trial_(matrix) {}

  void add_plain(Estimate& sum) {
    const auto plain = rows_of(plan_, problem_.index(), 0);
    communicator_.together([&] {
      if (communicator_.is_root()) sum.plain_row = seconds_of_plain_row(row_by_row_, plain, trial_);
    });
    std::int64_t count = 0;
    for (const auto& run : plain) count += common_count(run, matrix_.grid.part());
    sum.rows += sum.plain_row * static_cast<double>(count);  // on root, as all that follows
  }

  void add_stage(std::size_t s, Estimate& sum) {
    // As if no other step had rows: their columns only cost a copy.
    const EarlierColumns none({}, {rows_of(plan_, problem_.index(), s)}, 0, matrix_.storage);
    const Stopwatch watch;
    LayerFactors factors(problem_, plan_.stages[s - 1], {}, none, row_by_row_, accumulate_, memory_, communicator_);
    sum.shared += watch.seconds() * communicator_.size();
    communicator_.together([&] {
      if (!communicator_.is_root()) return;
      for (std::size_t p = 0; p < plan_.steps.size(); ++p) {
        if (plan_.steps[p] != s) continue;
        const auto& entry = problem_.index().entries()[p];
        const double all = seconds_of_parameter(factors, entry, plan_.rows_together[p], trial_,
                                                matrix_.columns_of(entry.offset).count());
        const auto part = common_count({entry.offset, entry.offset + entry.size}, matrix_.grid.part());
        sum.rows += all * static_cast<double>(part) / static_cast<double>(entry.size);
      }
    });
  }

 private:
  const Problem& problem_;
  const LayerPlan& plan_;
  const MatrixShape& matrix_;
  Precision accumulate_;
  std::uint64_t memory_;
  const Communicator& communicator_;
  Engine& row_by_row_;
  Trial trial_;
};

// Collective. How fast all ranks write together, and each of its cores.
void measure_writing(const std::filesystem::path& folder, std::int64_t bytes, const Communicator& communicator,
                     Estimate& sum) {
  const auto own = std::max<std::int64_t>(1, std::min(largest_trial, bytes) / communicator.size());
  WritingCost all;
  for (int k = 0; k < trials_of_writing; ++k) {
    WritingCost cost;
    communicator.together([&] { cost = try_writing(folder, static_cast<std::uint64_t>(own), buffer_bytes); });
    all.seconds += communicator.max(cost.seconds);
    all.processor_seconds += communicator.max(cost.processor_seconds);
  }
  const auto written = static_cast<double>(trials_of_writing * own);
  sum.bytes_a_second = communicator.size() * written / all.seconds;
  sum.written_a_second = written / all.processor_seconds;
}

}  // namespace

Estimate estimate(const Problem& problem, const LayerPlan& plan, const MatrixShape& matrix, Precision accumulate,
                  std::uint64_t memory, Engine& row_by_row, const std::filesystem::path& folder,
                  const Communicator& communicator) {
  Estimate sum;
  sum.bytes = static_cast<std::uint64_t>(matrix.bytes());
  SampledSteps steps(problem, plan, matrix, accumulate, memory, row_by_row, communicator);
  steps.add_plain(sum);
  std::int64_t earlier = plan.rows.front();
  sum.columns_a_second = columns_a_second;
  for (std::size_t s = 1; s <= plan.stages.size(); ++s) {
    steps.add_stage(s, sum);
    if (matrix.entries != Entries::all) continue;  // which have no columns of other steps
    sum.columns += static_cast<std::uint64_t>(earlier * plan.rows[s]) * bytes_of(matrix.storage);
    earlier += plan.rows[s];
  }
  sum.plain_row = communicator.max(sum.plain_row);
  sum.rows = communicator.max(sum.rows);
  sum.shared = communicator.max(sum.shared);
  measure_writing(folder, matrix.bytes(), communicator, sum);
  return sum;
}

}  // namespace hessian_mpi
