#include "hessian_mpi/run/assemble_by_layer.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "handed_rows.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/engines/diagonal.hpp"
#include "hessian_mpi/engines/l2_term.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "hessian_mpi/layers/later_columns.hpp"
#include "hessian_mpi/layers/layer_factors.hpp"
#include "hessian_mpi/matrix/runs.hpp"
#include "hessian_mpi/ranks/together_until_done.hpp"

namespace hessian_mpi::run {
namespace {

// Multiplications, about a minute of a core: what a rank makes before its blocks have any of it is lost where the job
// is stopped or killed.
constexpr double most_made_ahead = 1e12;

std::vector<Rows> rows_of(const matrix::BlockGrid& grid, const matrix::BlockList& blocks) {
  std::vector<Rows> runs;
  for (const auto b : blocks) matrix::append_run(grid.block(b), runs);
  return runs;
}

std::vector<std::int64_t> single_rows(const std::vector<Rows>& runs) {
  std::vector<std::int64_t> all;
  for (const auto& run : runs) {
    for (auto row = run.begin; row < run.end; ++row) all.push_back(row);
  }
  return all;
}

// Rows from one place of some runs to another.
std::vector<Rows> between(const std::vector<Rows>& runs, const matrix::Blocks& places) {
  std::vector<Rows> found;
  std::int64_t before = 0;
  for (const auto& run : runs) {
    matrix::append_run({run.begin + std::clamp<std::int64_t>(places.begin - before, 0, run.count()),
                        run.begin + std::clamp<std::int64_t>(places.end - before, 0, run.count())},
                       found);
    before += run.count();
  }
  return found;
}

std::vector<Rows> share_of(const std::vector<Rows>& runs, int rank, int ranks) {
  return between(runs, matrix::share(matrix::count_of(runs), rank, ranks));
}

// Neighbours among rows from a place on, at most so many.
Rows neighbours(const std::vector<std::int64_t>& rows, std::size_t place, std::int64_t most) {
  Rows found{rows[place], rows[place] + 1};
  for (auto k = place + 1; k < rows.size() && rows[k] == found.end && found.count() < most; ++k) ++found.end;
  return found;
}

// All columns that any of these wants.
Rows hull_of(const std::vector<layers::EarlierColumns*>& columns) {
  Rows all;
  for (const auto* some : columns) {
    const auto own = some->columns();
    if (own.count() == 0) continue;
    all = all.count() == 0 ? own : Rows{std::min(all.begin, own.begin), std::max(all.end, own.end)};
  }
  return all;
}

// Notes some of neighbouring whole rows, whose numbers these are; those are to be read from the file where it has them.
void note(const std::vector<Rows>& some, const Rows& rows, const void* numbers, const matrix::MatrixShape& matrix,
          bool in_file, const std::vector<layers::EarlierColumns*>& columns) {
  for (const auto& run : matrix::common({rows}, some)) {
    const char* const from = static_cast<const char*>(numbers) + (run.begin - rows.begin) * matrix.bytes_of_row();
    for (auto* of_step : columns) {
      if (in_file) {
        of_step->note_in_file(run);
      } else {
        of_step->note(run, from, matrix.columns);
      }
    }
  }
}

/// Makes whole rows by another engine and notes those of a step as columns; others in their blocks have been.
class NotingEngine final : public engines::Engine {
 public:
  /// in_file: the rows are to be read from the file, which they will be in. before: passes that were for other rows.
  /// share: of the engine's passes, those for these rows. step and matrix must outlive the object.
  NotingEngine(engines::Engine& engine, const std::vector<Rows>& step, std::vector<layers::EarlierColumns*> columns,
               const matrix::MatrixShape& matrix, bool in_file, const engines::Passes& before, double share)
      : engine_(engine),
        step_(step),
        columns_(std::move(columns)),
        matrix_(matrix),
        in_file_(in_file),
        before_(before),
        share_(share) {}
  std::string name() const override { return engine_.name(); }
  std::int64_t rows_at_once() const override { return engine_.rows_at_once(); }
  std::uint64_t bytes_per_row(std::int64_t columns) const override { return engine_.bytes_per_row(columns); }
  engines::Passes passes() const override {
    auto passes = engine_.passes();
    passes.seconds -= before_.seconds;
    if (passes.made) passes.made = std::min(1.0, (*passes.made - before_.made.value_or(0)) / share_);
    return passes;
  }
  void compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
               const std::function<void(double)>& advance) override {
    engine_.compute(rows, columns, storage, out, advance);
    note(step_, rows, out, matrix_, in_file_, columns_);
  }

 private:
  engines::Engine& engine_;
  const std::vector<Rows>& step_;
  std::vector<layers::EarlierColumns*> columns_;
  const matrix::MatrixShape& matrix_;
  bool in_file_;
  engines::Passes before_;
  double share_;
};

void add(const Assembled& some, Assembled& all) {
  all.compute_seconds += some.compute_seconds;
  all.pass_seconds += some.pass_seconds;
  all.write_seconds += some.write_seconds;
  all.checkpoint_seconds += some.checkpoint_seconds;
  all.nonfinite_rows.insert(all.nonfinite_rows.end(), some.nonfinite_rows.begin(), some.nonfinite_rows.end());
}

}  // namespace

/// Whole rows that have been made before they are asked for.
class LayeredAssembly::KeptRows final : public engines::Engine {
 public:
  explicit KeptRows(std::int64_t bytes_of_row) : bytes_of_row_(bytes_of_row) {}
  std::string name() const override { return "kept"; }
  std::int64_t rows_at_once() const override { return 1; }
  std::uint64_t bytes_per_row(std::int64_t /*columns*/) const override { return 0; }
  void keep(std::int64_t row, const char* numbers) { rows_[row].assign(numbers, numbers + bytes_of_row_); }
  void compute(const Rows& rows, const Rows& /*columns*/, Precision /*storage*/, void* out,
               const std::function<void(double)>& advance) override {
    for (auto row = rows.begin; row < rows.end; ++row) {
      const auto found = rows_.find(row);
      if (found == rows_.end()) throw RunError(text("row ", row, " was not made in its step"));
      std::memcpy(static_cast<char*>(out) + (row - rows.begin) * bytes_of_row_, found->second.data(),
                  found->second.size());
    }
    advance(static_cast<double>(rows.count()));
  }

 private:
  std::int64_t bytes_of_row_;
  std::map<std::int64_t, std::vector<char>> rows_;
};

LayeredAssembly::LayeredAssembly(const network::Problem& problem, const layers::LayerPlan& plan,
                                 const matrix::MatrixShape& matrix, const matrix::BlockList& missing,
                                 Precision accumulate, engines::Engine& unfactored,
                                 const ranks::Communicator& communicator)
    : problem_(problem),
      plan_(plan),
      matrix_(matrix),
      accumulate_(accumulate),
      communicator_(communicator),
      shares_(plan.steps.size()),
      steps_(shares_.size()),
      unfactored_(unfactored),
      kept_(std::make_unique<KeptRows>(matrix.bytes_of_row())) {
  for (std::size_t s = 0; s < steps_.size(); ++s) {
    steps_[s].rows = has_rows_of_parameters() ? rows_of(plan, problem.index(), s) : std::vector{matrix.grid.part()};
  }
  share_blocks(missing);
  for (auto s = steps_.size(); s-- > 0;) find_rows(s);
  std::vector<Rows> earlier;
  for (std::size_t s = 0; s < steps_.size(); ++s) {
    if (s > 0 && steps_[s].active) {
      std::vector<std::vector<Rows>> wanted;
      for (const auto& own : steps_[s].own) wanted.push_back(in_part(own));
      if (matrix.entries == Entries::all && communicator.size() > 1) {
        steps_[s].handed = std::make_unique<HandedRows>(plan, problem.index(), s, steps_[s].own, earlier, matrix);
      }
      steps_[s].columns.emplace(earlier, std::move(wanted), communicator.rank(), matrix.storage);
    }
    if (steps_[s].is_column) earlier = matrix::united(std::move(earlier), steps_[s].rows);
  }
}

LayeredAssembly::~LayeredAssembly() = default;
LayeredAssembly::LayeredAssembly(LayeredAssembly&&) noexcept = default;

void LayeredAssembly::share_blocks(const matrix::BlockList& missing) {
  std::vector<matrix::BlockList> blocks(steps_.size());
  std::vector<std::vector<double>> costs(steps_.size());
  for (const auto b : missing) {
    const auto rows = matrix_.grid.block(b);
    auto s = steps_.size() - 1;
    while (s > 0 && matrix::common({rows}, steps_[s].rows).empty()) --s;
    blocks[s].push_back(b);
    costs[s].push_back(has_rows_of_parameters() ? layers::cost_of(plan_, problem_.index(), rows)
                                                : static_cast<double>(rows.count()));
  }
  for (std::size_t s = 0; s < steps_.size(); ++s) {
    shares_[s] = matrix::shared_by_cost(std::move(blocks[s]), costs[s], communicator_.size());
  }
}

// Others are loose: columns of later steps, which have no use for those of earlier ones.
std::vector<Rows> LayeredAssembly::in_part(const std::vector<Rows>& rows) const {
  return matrix::common(rows, {matrix_.grid.part()});
}

// What the ranks make of a step's rows. Those of later steps are known.
void LayeredAssembly::find_rows(std::size_t s) {
  auto& step = steps_[s];
  for (auto later = s + 1; later < steps_.size() && matrix_.entries == Entries::all; ++later) {
    step.is_column = step.is_column || steps_[later].active;
  }
  const auto ranks = communicator_.size();
  for (int rank = 0; rank < ranks; ++rank) {
    const auto own = matrix::common(rows_of(matrix_.grid, shares_[s].of_rank(rank)), step.rows);
    std::vector<Rows> kept;
    for (auto later = s + 1; later < steps_.size(); ++later) {
      const auto blocks = rows_of(matrix_.grid, shares_[later].of_rank(rank));
      kept = matrix::united(std::move(kept), matrix::common(blocks, step.rows));
    }
    step.own.push_back(matrix::united(own, kept));
    if (rank == communicator_.rank()) step.kept = kept;
    step.beside.push_back(std::move(kept));
  }
  if (step.is_column) step.loose = matrix::without(step.rows, {matrix_.grid.part()});
  for (int rank = 0; rank < ranks; ++rank) {
    const auto share = share_of(step.loose, rank, ranks);
    auto& own = step.own[static_cast<std::size_t>(rank)];
    own = matrix::united(std::move(own), share);
    step.active = step.active || !own.empty();
    auto& beside = step.beside[static_cast<std::size_t>(rank)];
    beside = matrix::united(std::move(beside), share);
  }
}

std::vector<layers::EarlierColumns*> LayeredAssembly::columns_after(std::size_t s) {
  std::vector<layers::EarlierColumns*> columns;
  if (!steps_[s].is_column) return columns;
  for (auto later = s + 1; later < steps_.size(); ++later) {
    if (steps_[later].columns) columns.push_back(&*steps_[later].columns);
  }
  return columns;
}

bool LayeredAssembly::factors_layers() const {
  return std::any_of(steps_.begin(), steps_.end(), [](const Step& step) { return step.columns.has_value(); });
}

std::uint64_t LayeredAssembly::bytes_of_columns() const {
  std::int64_t bytes = 0;
  std::int64_t earlier = 0;
  for (const auto& step : steps_) {
    if (step.columns) {
      const auto noted = (earlier + communicator_.size() - 1) / communicator_.size() * step.columns->bytes_noted();
      const auto& own = step.own[static_cast<std::size_t>(communicator_.rank())];
      const auto kept = matrix::count_of(in_part(own)) * step.columns->bytes_kept();
      bytes +=
          noted + kept / communicator_.size() * (communicator_.size() - 1);  // what is its own lies where it was noted
    }
    earlier += matrix::count_of(step.rows);
  }
  return static_cast<std::uint64_t>(bytes);
}

std::uint64_t LayeredAssembly::bytes_beside() const {
  std::int64_t bytes = 0;
  std::int64_t noted = 0;  // of a row, for all later steps
  for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) {
    const auto& beside = step->beside[static_cast<std::size_t>(communicator_.rank())];
    bytes += matrix::count_of(beside) * noted + matrix::count_of(step->kept) * matrix_.bytes_of_row();
    if (step->columns) noted += step->columns->bytes_noted();
  }
  return static_cast<std::uint64_t>(bytes);
}

std::uint64_t LayeredAssembly::bytes_handed() const {
  std::uint64_t most = 0;
  for (const auto& step : steps_) most = std::max(most, step.handed ? step.handed->bytes() : 0);
  return most;
}

// Whether ranks make rows for each other where they have memory for twice their bytes.
bool LayeredAssembly::may_hand_over(const Step& step) const {
  return step.handed && step.handed->bytes() > 0 && step.handed->cost() <= most_made_ahead;
}

std::uint64_t LayeredAssembly::bytes_of_passes(std::size_t s) const {
  if (!steps_[s].columns) return 0;
  return plan_.steps[s].bytes_if_there * (bytes_of(accumulate_) / bytes_of(problem_.precision()));
}

std::uint64_t LayeredAssembly::bytes_of_passes() const {
  std::uint64_t most = 0;
  for (std::size_t s = 0; s < steps_.size(); ++s) most = std::max(most, bytes_of_passes(s));
  return most;
}

std::uint64_t LayeredAssembly::memory_for_passes_once() const {
  std::uint64_t most = 0;
  for (std::size_t s = 0; s < steps_.size(); ++s) {
    const auto& step = steps_[s];
    const auto kept = bytes_of_passes(s);
    most = std::max(most, may_hand_over(step) ? std::min(kept, 2 * step.handed->bytes()) : kept);
  }
  return most;
}

// Collective.
void LayeredAssembly::choose_rounds(std::uint64_t memory) {
  columns_in_file_ = communicator_.max(std::int64_t{bytes_of_columns() > memory}) != 0;
  if (!columns_in_file_) return;
  const auto least = std::max<std::int64_t>(1, communicator_.min(static_cast<std::int64_t>(memory)));
  for (auto& step : steps_) {
    if (!step.columns) continue;
    for (const auto& own : step.own) {
      const auto bytes = matrix::count_of(in_part(own)) * step.columns->bytes_kept();
      step.rounds = std::max(step.rounds, (bytes + least - 1) / least);
    }
  }
}

matrix::SharedBlocks LayeredAssembly::blocks_of_round(std::size_t s, std::int64_t round) const {
  matrix::SharedBlocks some;
  for (int rank = 0; rank < communicator_.size(); ++rank) {
    const auto all = shares_[s].of_rank(rank);
    const auto group = matrix::share(static_cast<std::int64_t>(all.size()), round, steps_[s].rounds);
    some.blocks.insert(some.blocks.end(), all.begin() + group.begin, all.begin() + group.end);
    some.ends.push_back(some.blocks.size());
  }
  return some;
}

std::vector<Rows> LayeredAssembly::beside_in_round(std::size_t s, std::int64_t round, int rank) const {
  const auto& beside = steps_[s].beside[static_cast<std::size_t>(rank)];
  return between(beside, matrix::share(matrix::count_of(beside), round, steps_[s].rounds));
}

// Collective. Brings the rows that are to be made in a round their columns of earlier steps.
void LayeredAssembly::exchange(std::size_t s, std::int64_t round) {
  auto& step = steps_[s];
  std::vector<std::vector<Rows>> rows;
  const auto blocks = blocks_of_round(s, round);
  for (int rank = 0; rank < communicator_.size(); ++rank) {
    const auto beside = in_part(beside_in_round(s, round, rank));
    rows.push_back(matrix::united(matrix::common(rows_of(matrix_.grid, blocks.of_rank(rank)), step.rows), beside));
  }
  std::optional<file::HessianReader> reader;
  const auto read = [&](const Rows& some, const Rows& columns, char* numbers) {
    if (!reader) reader.emplace(file_());
    reader->read(some, columns, matrix_.storage, numbers);
  };
  step.columns->exchange(rows, read, communicator_);
}

// Collective. Makes rows beside those of its blocks: for later steps' columns, as far as those want them, and whole for
// blocks that they complete.
void LayeredAssembly::take_in(std::size_t s, const std::vector<std::int64_t>& rows, engines::Engine& engine,
                              const ranks::StopPoint& stop) {
  const auto later = columns_after(s);
  const Rows wanted = hull_of(later);
  std::vector<char> numbers;
  const auto take = [&](std::size_t place) {
    const Rows some = neighbours(rows, place, engine.rows_at_once());
    const auto kept = matrix::common({some}, steps_[s].kept);
    // LibTorch may compute some columns in another way than all of them.
    const bool whole = s == 0 || !kept.empty();
    const Rows columns = whole ? Rows{0, matrix_.columns} : wanted;
    const auto bytes_of_row = columns.count() * static_cast<std::int64_t>(bytes_of(matrix_.storage));
    numbers.resize(static_cast<std::size_t>(some.count() * bytes_of_row));
    engine.compute(some, columns, matrix_.storage, numbers.data(), [](double) {});
    for (auto* of_step : later) of_step->note(some, numbers.data(), columns.count(), columns.begin);
    for (const auto& run : kept) {
      for (auto row = run.begin; row < run.end; ++row) {
        kept_->keep(row, numbers.data() + (row - some.begin) * bytes_of_row);
      }
    }
    return static_cast<std::size_t>(some.count());
  };
  ranks::together_until_done(rows.size(), take, stop, communicator_);
}

// Collective. Notes the rows of a step that the file has.
void LayeredAssembly::read_back(const std::vector<file::BlockRecord>& records, std::size_t s,
                                const ranks::StopPoint& stop) {
  matrix::BlockList blocks;
  for (std::size_t b = 0; b < records.size(); ++b) {
    if (records[b].on_disk) blocks.push_back(static_cast<std::int64_t>(b));
  }
  const auto there = matrix::common(rows_of(matrix_.grid, blocks), steps_[s].rows);
  const auto mine = single_rows(share_of(there, communicator_.rank(), communicator_.size()));
  std::optional<file::HessianReader> reader;
  std::vector<char> numbers;
  const auto take = [&](std::size_t place) {
    const Rows some = neighbours(mine, place, matrix_.grid.rows_per_block());
    if (!columns_in_file_) {
      if (!reader) reader.emplace(file_());
      numbers.resize(static_cast<std::size_t>(matrix_.bytes_of_rows(some)));
      reader->read(some, {0, matrix_.columns}, matrix_.storage, numbers.data());
    }
    note({some}, some, numbers.data(), matrix_, columns_in_file_, columns_after(s));
    return static_cast<std::size_t>(some.count());
  };
  ranks::together_until_done(mine.size(), take, stop, communicator_);
}

void LayeredAssembly::prepare(const FilePath& file, const std::vector<file::BlockRecord>& records, std::uint64_t memory,
                              const ranks::StopPoint& stop) {
  file_ = file;
  choose_rounds(memory);
  for (std::size_t s = 0; s < steps_.size(); ++s) {
    if (steps_[s].is_column) read_back(records, s, stop);
  }
  take_in(0, single_rows(beside_in_round(0, 0, communicator_.rank())), unfactored_, stop);
}

// Collective. Of a step after the first.
std::unique_ptr<engines::Engine> LayeredAssembly::engine_of(std::size_t s, std::uint64_t memory,
                                                            const ranks::StopPoint& stop) {
  const auto& of_plan = plan_.steps[s];
  auto& step = steps_[s];
  const auto& columns = *step.columns;
  if (of_plan.products) return std::make_unique<layers::LaterColumns>(unfactored_, of_plan.products->begin, columns);
  const auto rank = communicator_.rank();
  auto own = step.own[static_cast<std::size_t>(rank)];
  const auto handed = may_hand_over(step) ? step.handed->bytes() : 0;
  const bool hands_over = handed > 0 && step.rounds == 1 && communicator_.max(std::int64_t{handed > memory / 2}) == 0;
  std::unique_ptr<layers::LayerFactors> factors;
  communicator_.together([&] {
    if (hands_over) {
      const auto left = matrix::without(own, step.handed->to_rank(rank));
      own = step.handed->made_by(rank);
      own.insert(own.end(), left.begin(), left.end());
    }
    factors = std::make_unique<layers::LayerFactors>(problem_, of_plan, own, columns, *kept_, accumulate_,
                                                     hands_over ? memory - handed : memory);
  });
  if (!hands_over) return factors;
  step.handed->make(*factors, stop, communicator_);
  return std::make_unique<WithHandedRows>(std::move(factors), *step.handed, columns, matrix_.columns);
}

// Of all that this rank makes of a step, what its rows in some blocks need.
double LayeredAssembly::share_of_passes(std::size_t s, const matrix::BlockList& blocks) const {
  if (!has_rows_of_parameters()) return 1;
  const auto passes_for = [&](const std::vector<Rows>& runs) {
    double passes = 0;
    for (const auto& run : runs) passes += layers::work_of(plan_, problem_.index(), run).passes;
    return passes;
  };
  const double all = passes_for(steps_[s].own[static_cast<std::size_t>(communicator_.rank())]);
  const double some = passes_for(matrix::common(rows_of(matrix_.grid, blocks), steps_[s].rows));
  return some > 0 && all > some ? some / all : 1;
}

Assembled LayeredAssembly::assemble(const AssembleBlocks& assemble_blocks, std::uint64_t memory,
                                    const ranks::StopPoint& stop) {
  Assembled result;
  for (std::size_t s = 0; s < steps_.size(); ++s) {
    auto& step = steps_[s];
    if (!step.active) continue;
    std::unique_ptr<engines::Engine> made;
    const auto engine_of_step = [&]() -> engines::Engine& {
      if (s == 0) return unfactored_;
      if (!made) {
        made = engine_of(s, memory, stop);
      }
      return *made;
    };
    for (std::int64_t round = 0; round < step.rounds; ++round) {
      const Stopwatch preparing;
      stop();  // here ranks wait for those that have more to do
      const Stopwatch exchanging;
      if (s > 0) exchange(s, round);
      result.exchange_seconds += exchanging.seconds();
      engines::Engine& engine = engine_of_step();
      result.compute_seconds += preparing.seconds();
      if (const auto blocks = blocks_of_round(s, round); !blocks.blocks.empty()) {
        const auto before = s > 0 && round == 0 ? engines::Passes() : engine.passes();
        NotingEngine noting(engine, step.rows, columns_after(s), matrix_, columns_in_file_, before,
                            share_of_passes(s, blocks.of_rank(communicator_.rank())));
        engines::WithL2Term whole(noting, problem_.l2());
        engines::Diagonal diagonal(whole);
        add(assemble_blocks(matrix_.entries == Entries::diagonal ? static_cast<engines::Engine&>(diagonal) : whole,
                            blocks),
            result);
      }
      if (s == 0) continue;  // prepare() has made what is beside
      const Stopwatch beside;
      take_in(s, single_rows(beside_in_round(s, round, communicator_.rank())), engine, stop);
      result.compute_seconds += beside.seconds();
    }
    step.handed.reset();
    step.columns.reset();
  }
  return result;
}

}  // namespace hessian_mpi::run
