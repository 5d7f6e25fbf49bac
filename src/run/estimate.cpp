#include "hessian_mpi/run/estimate.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/engines/diagonal.hpp"
#include "hessian_mpi/layers/earlier_columns.hpp"
#include "hessian_mpi/layers/layer_factors.hpp"
#include "hessian_mpi/layers/layer_plan.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "hessian_mpi/run/assemble.hpp"
#include "hessian_mpi/system/writeback.hpp"

namespace hessian_mpi::run {
namespace {

constexpr std::int64_t sampled_rows = 32;
constexpr double seconds_for_rows = 2;
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
  explicit Trial(const matrix::MatrixShape& matrix) : matrix_(matrix) {}
  double seconds_for(engines::Engine& engine, const Rows& rows) {
    std::vector<Rows> calls;
    for (auto row = rows.begin; row < rows.end; row = calls.back().end) calls.push_back(call_from(row, rows, engine));
    for (const auto& some : calls) {
      numbers_.resize(std::max(numbers_.size(), static_cast<std::size_t>(matrix_.bytes_of_rows(some))));
    }
    engines::Diagonal diagonal(engine);
    engines::Engine& entries = matrix_.entries == Entries::diagonal ? static_cast<engines::Engine&>(diagonal) : engine;
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
  Rows call_from(std::int64_t row, const Rows& rows, const engines::Engine& engine) const {
    const auto fitting = buffer_bytes / matrix_.bytes_of_rows({row, row + 1});
    const auto end = std::min(rows.end, row + std::max({std::int64_t{1}, fitting, engine.rows_at_once()}));
    if (matrix_.has_whole_rows()) return {row, end};
    return {row, std::min(end, matrix_.grid.piece(matrix_.grid.piece_of(row)).end)};
  }

  const matrix::MatrixShape& matrix_;
  std::vector<char> numbers_;
  std::vector<std::int64_t> nonfinite_rows_;
};

// Seconds of a row by double-backward, from rows spread over all of them.
double seconds_of_row(engines::Engine& engine, const std::vector<Rows>& plain, Trial& trial) {
  std::vector<std::int64_t> rows;
  for (const auto& run : plain) {
    for (auto row = run.begin; row < run.end; ++row) rows.push_back(row);
  }
  if (rows.empty()) return 0;
  trial.seconds_for(engine, {rows.front(), rows.front() + 1});  // which runs the network forward, too
  const auto at_once = engine.rows_at_once();
  const auto samples = std::min<std::int64_t>(sampled_rows, static_cast<std::int64_t>(rows.size()));
  double seconds = 0;
  std::int64_t made = 0;
  for (std::int64_t k = 0; k < samples && (seconds < seconds_for_rows || made == 0); ++k) {
    const auto place = (2 * k + 1) * static_cast<std::int64_t>(rows.size()) / (2 * samples);
    const auto row = rows[static_cast<std::size_t>(place)];
    seconds += trial.seconds_for(engine, {row, std::min(row + at_once, plain.back().end)});
    made += std::min(row + at_once, plain.back().end) - row;
  }
  return seconds / static_cast<double>(made);
}

// Seconds for all rows of a parameter that a step makes: the first that share passes, with what is made but once, and
// the next for the rest.
double seconds_of_parameter(engines::Engine& engine, const matrix::ParameterEntry& entry, std::int64_t together,
                            Trial& trial, std::int64_t columns) {
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
  SampledSteps(const network::Problem& problem, const layers::LayerPlan& plan, const matrix::MatrixShape& matrix,
               Precision accumulate, std::uint64_t memory, engines::Engine& unfactored,
               const ranks::Communicator& communicator)
      : problem_(problem),
        plan_(plan),
        matrix_(matrix),
        accumulate_(accumulate),
        memory_(memory),
        communicator_(communicator),
        unfactored_(unfactored),
        trial_(matrix) {}

  void add_unfactored(Estimate& sum) {
    const auto plain =
        matrix_.entries == Entries::of_samples ? std::vector{matrix_.grid.part()} : rows_of(plan_, problem_.index(), 0);
    communicator_.together([&] {
      if (communicator_.is_root()) sum.double_backward_row = seconds_of_row(unfactored_, plain, trial_);
    });
    std::int64_t count = 0;
    for (const auto& run : plain) count += common_count(run, matrix_.grid.part());
    sum.rows += sum.double_backward_row * static_cast<double>(count);  // on root, as all that follows
  }

  void add_products(const Rows& rows, Estimate& sum) const {
    const auto n = static_cast<double>(matrix_.columns);
    const auto count = common_count(rows, matrix_.grid.part());
    sum.rows += sum.double_backward_row * static_cast<double>(count) * (n - static_cast<double>(rows.begin)) / n;
  }

  void add_factored(std::size_t s, Estimate& sum) {
    // As if no other step had rows: their columns only cost a copy.
    const layers::EarlierColumns none({}, {rows_of(plan_, problem_.index(), s)}, 0, matrix_.storage);
    communicator_.together([&] {
      if (!communicator_.is_root()) return;
      const Stopwatch watch;
      layers::LayerFactors factors(problem_, plan_.steps[s], {}, none, unfactored_, accumulate_, memory_);
      sum.on_each += watch.seconds();
      for (std::size_t p = 0; p < plan_.parameters.size(); ++p) {
        if (plan_.parameters[p].step != s) continue;
        const auto& entry = problem_.index().entries()[p];
        const double all = seconds_of_parameter(factors, entry, plan_.parameters[p].rows_together, trial_,
                                                matrix_.columns_of(entry.offset).count());
        const auto part = common_count({entry.offset, entry.offset + entry.size}, matrix_.grid.part());
        sum.rows += all * static_cast<double>(part) / static_cast<double>(entry.size);
      }
    });
  }

 private:
  const network::Problem& problem_;
  const layers::LayerPlan& plan_;
  const matrix::MatrixShape& matrix_;
  Precision accumulate_;
  std::uint64_t memory_;
  const ranks::Communicator& communicator_;
  engines::Engine& unfactored_;
  Trial trial_;
};

// Collective. How fast all ranks write together, and each of its cores.
void measure_writing(const std::filesystem::path& folder, std::int64_t bytes, const ranks::Communicator& communicator,
                     Estimate& sum) {
  const auto own = std::max<std::int64_t>(1, std::min(largest_trial, bytes) / communicator.size());
  system::WritingCost all;
  for (int k = 0; k < trials_of_writing; ++k) {
    system::WritingCost cost;
    communicator.together([&] { cost = system::try_writing(folder, static_cast<std::uint64_t>(own), buffer_bytes); });
    all.seconds += communicator.max(cost.seconds);
    all.processor_seconds += communicator.max(cost.processor_seconds);
  }
  const auto written = static_cast<double>(trials_of_writing * own);
  sum.bytes_a_second = communicator.size() * written / all.seconds;
  sum.written_a_second = written / all.processor_seconds;
}

}  // namespace

Estimate estimate(const network::Problem& problem, const layers::LayerPlan& plan, const matrix::MatrixShape& matrix,
                  Precision accumulate, std::uint64_t memory, engines::Engine& unfactored,
                  const std::filesystem::path& folder, const ranks::Communicator& communicator) {
  Estimate sum;
  sum.bytes = static_cast<std::uint64_t>(matrix.bytes());
  SampledSteps steps(problem, plan, matrix, accumulate, memory, unfactored, communicator);
  steps.add_unfactored(sum);
  std::int64_t earlier = plan.steps.front().rows;
  sum.columns_a_second = columns_a_second;
  for (std::size_t s = 1; s < plan.steps.size(); ++s) {
    if (const auto& products = plan.steps[s].products) {
      steps.add_products(*products, sum);
    } else {
      steps.add_factored(s, sum);
    }
    if (matrix.entries != Entries::all) continue;  // which have no columns of other steps
    sum.columns += static_cast<std::uint64_t>(earlier * plan.steps[s].rows) * bytes_of(matrix.storage);
    earlier += plan.steps[s].rows;
  }
  sum.double_backward_row = communicator.max(sum.double_backward_row);
  sum.rows = communicator.max(sum.rows);
  sum.on_each = communicator.max(sum.on_each);
  measure_writing(folder, matrix.bytes(), communicator, sum);
  return sum;
}

}  // namespace hessian_mpi::run
