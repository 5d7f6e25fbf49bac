#include "handed_rows.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "hessian_mpi/matrix/runs.hpp"

namespace hessian_mpi::run {
namespace {

constexpr std::int64_t most_rows_of_piece = 64;
constexpr std::int64_t bytes_of_round = 8 << 20;  // that a rank makes between two exchanges

template <class Pieces, class Take>
void for_rows(const Pieces& pieces, const Take& take) {
  for (const auto& piece : pieces) {
    for (std::int64_t k = 0; k < piece.count; ++k) take(piece.first + k * piece.distance);
  }
}

// The rank for each output: of a bias the one that makes rows of its weight, otherwise evenly. Outputs that come of the
// same passes stay together, and those of a weight and of its bias.
std::vector<int> makers_of(const layers::ParameterPlan& plan, const matrix::ParameterIndex& index,
                           const std::vector<std::vector<Rows>>& wanted) {
  const auto ranks = static_cast<int>(wanted.size());
  const auto groups = (plan.outputs + plan.outputs_together - 1) / plan.outputs_together;
  std::vector<int> makers;
  for (int r = 0; r < ranks; ++r) {
    const auto end = std::min(matrix::share(groups, r, ranks).end * plan.outputs_together, plan.outputs);
    makers.resize(static_cast<std::size_t>(end), r);
  }
  if (!plan.weight_of) return makers;
  const auto& weight = index.entries()[*plan.weight_of];
  for (std::int64_t output = 0; output < plan.outputs; ++output) {
    const auto row = weight.offset + output * (weight.size / plan.outputs);
    for (int r = 0; r < ranks; ++r) {
      if (matrix::contains(wanted[static_cast<std::size_t>(r)], row)) makers[static_cast<std::size_t>(output)] = r;
    }
  }
  return makers;
}

}  // namespace

HandedRows::HandedRows(const layers::LayerPlan& plan, const matrix::ParameterIndex& index, std::size_t step,
                       const std::vector<std::vector<Rows>>& wanted, const std::vector<Rows>& earlier,
                       const matrix::MatrixShape& matrix)
    : matrix_(matrix),
      columns_(matrix::without({{0, matrix.columns}}, earlier)),
      to_ranks_(wanted.size()),
      made_(wanted.size()) {
  for (std::size_t p = 0; p < plan.parameters.size(); ++p) {
    if (plan.parameters[p].step != step || plan.parameters[p].outputs == 0) continue;
    const auto& entry = index.entries()[p];
    const Rows parameter{entry.offset, entry.offset + entry.size};
    for (std::size_t r = 0; r < wanted.size(); ++r) {
      for (const auto& run : matrix::common(wanted[r], {parameter})) matrix::append_run(run, to_ranks_[r]);
    }
    share(parameter, plan.parameters[p], makers_of(plan.parameters[p], index, wanted));
  }
  for (auto& pieces : made_) {
    // A weight's and its bias' rows by the same passes.
    std::stable_sort(pieces.begin(), pieces.end(), [](auto& a, auto& b) { return a.output < b.output; });
    double cost = 0;
    for (const auto& piece : pieces) {
      cost += static_cast<double>(piece.count) * layers::cost_of(plan, index, {piece.first, piece.first + 1});
    }
    cost_ = std::max(cost_, cost);
  }
}

void HandedRows::share(const Rows& parameter, const layers::ParameterPlan& plan, const std::vector<int>& makers) {
  std::vector<Rows> needed;
  for (const auto& rows : to_ranks_) {
    for (const auto& run : matrix::common(rows, {parameter})) needed.push_back(run);
  }
  needed = matrix::united(std::move(needed));
  const auto most = std::clamp<std::int64_t>(bytes_of_round / matrix_.bytes_of_row(), 1, most_rows_of_piece);
  for (std::int64_t output = 0; output < plan.outputs; ++output) {
    auto& made = made_[static_cast<std::size_t>(makers[static_cast<std::size_t>(output)])];
    for (const auto& run : needed) {
      const auto first = parameter.begin + output;
      auto row =
          first + (std::max(run.begin - first, std::int64_t{0}) + plan.outputs - 1) / plan.outputs * plan.outputs;
      while (row < run.end) {
        const auto left = (run.end - row + plan.outputs - 1) / plan.outputs;
        made.push_back({output, row, plan.outputs, std::min(left, most)});
        row += made.back().count * plan.outputs;
      }
    }
  }
}

std::int64_t HandedRows::bytes_of_row() const {
  return matrix::count_of(columns_) * static_cast<std::int64_t>(bytes_of(matrix_.storage));
}

std::vector<Rows> HandedRows::made_by(int rank) const {
  std::vector<Rows> rows;
  for_rows(made_[static_cast<std::size_t>(rank)], [&](std::int64_t row) { rows.push_back({row, row + 1}); });
  return rows;
}

std::uint64_t HandedRows::bytes() const {
  std::int64_t most = 0;
  for (const auto& rows : to_ranks_) most = std::max(most, matrix::count_of(rows));
  if (most == 0) return 0;
  // And what is made at a time, with a piece in whole rows.
  return static_cast<std::uint64_t>(most * bytes_of_row() + 4 * bytes_of_round);
}

auto HandedRows::in_rounds(int rank) const -> std::vector<Pieces> {
  std::vector<Pieces> rounds;
  std::int64_t left = 0;
  for (const auto& piece : made_[static_cast<std::size_t>(rank)]) {
    if (left <= 0) {
      rounds.emplace_back();
      left = bytes_of_round;
    }
    rounds.back().push_back(piece);
    left -= piece.count * bytes_of_row();
  }
  return rounds;
}

// [rows][columns that are made].
std::vector<char> HandedRows::computed(const Pieces& pieces, layers::LayerFactors& engine) const {
  const auto number_bytes = static_cast<std::int64_t>(bytes_of(matrix_.storage));
  std::int64_t count = 0;
  for (const auto& piece : pieces) count += piece.count;
  std::vector<char> made;
  made.reserve(static_cast<std::size_t>(count * bytes_of_row()));
  std::vector<char> rows;
  for (const auto& piece : pieces) {
    rows.resize(static_cast<std::size_t>(piece.count * matrix_.bytes_of_row()));
    engine.compute_of_output(piece.first, piece.count, matrix_.storage, rows.data());
    for (std::int64_t k = 0; k < piece.count; ++k) {
      const char* const row = rows.data() + k * matrix_.bytes_of_row();
      for (const auto& run : columns_)
        made.insert(made.end(), row + run.begin * number_bytes, row + run.end * number_bytes);
    }
  }
  return made;
}

// Of a row that is handed to this rank.
char* HandedRows::place_of(std::int64_t row) {
  return numbers_.data() + matrix::place_of(row, to_rank(rank_)) * bytes_of_row();
}

// Collective. Brings what each rank has made of these pieces of its own, row by row, to where it is wanted.
void HandedRows::exchange(const std::vector<Pieces>& pieces, const std::vector<char>& made,
                          const ranks::Communicator& communicator) {
  std::vector<ranks::Communicator::Outgoing> outgoing;
  std::vector<ranks::Communicator::Incoming> incoming;
  communicator.together([&] {
    const char* from = made.data();
    for_rows(pieces[static_cast<std::size_t>(rank_)], [&](std::int64_t row) {
      for (int r = 0; r < communicator.size(); ++r) {
        if (!matrix::contains(to_rank(r), row)) continue;
        if (r == rank_) {
          std::copy_n(from, bytes_of_row(), place_of(row));
        } else {
          outgoing.push_back({r, from, bytes_of_row()});
        }
      }
      from += bytes_of_row();
    });
    for (int r = 0; r < communicator.size(); ++r) {
      if (r == rank_) continue;
      for_rows(pieces[static_cast<std::size_t>(r)], [&](std::int64_t row) {
        if (matrix::contains(to_rank(rank_), row)) incoming.push_back({r, place_of(row), bytes_of_row()});
      });
    }
  });
  communicator.exchange(outgoing, incoming);
}

void HandedRows::make(layers::LayerFactors& engine, const ranks::StopPoint& stop,
                      const ranks::Communicator& communicator) {
  rank_ = communicator.rank();
  std::vector<std::vector<Pieces>> rounds;  // of each rank
  std::size_t count = 0;
  communicator.together([&] {
    for (int r = 0; r < communicator.size(); ++r) {
      rounds.push_back(in_rounds(r));
      count = std::max(count, rounds.back().size());
    }
    numbers_.resize(static_cast<std::size_t>(matrix::count_of(to_rank(rank_)) * bytes_of_row()));
  });
  for (std::size_t k = 0; k < count; ++k) {
    stop();
    std::vector<Pieces> pieces(rounds.size());
    std::vector<char> made;
    communicator.together([&] {
      for (std::size_t r = 0; r < rounds.size(); ++r) {
        if (k < rounds[r].size()) pieces[r] = rounds[r][k];
      }
      made = computed(pieces[static_cast<std::size_t>(rank_)], engine);
    });
    exchange(pieces, made, communicator);
  }
}

bool HandedRows::has(std::int64_t row) const {
  return matrix::contains(to_rank(rank_), row);
}

void HandedRows::copy(const Rows& rows, const Rows& columns, void* out) const {
  const auto number_bytes = static_cast<std::int64_t>(bytes_of(matrix_.storage));
  const auto* from = numbers_.data() + matrix::place_of(rows.begin, to_rank(rank_)) * bytes_of_row();
  for (auto row = rows.begin; row < rows.end; ++row) {
    auto* const to = static_cast<char*>(out) + (row - rows.begin) * columns.count() * number_bytes;
    for (const auto& run : columns_) {
      const Rows some{std::max(run.begin, columns.begin), std::min(run.end, columns.end)};
      if (some.count() > 0) {
        std::memcpy(to + (some.begin - columns.begin) * number_bytes, from + (some.begin - run.begin) * number_bytes,
                    static_cast<std::size_t>(some.count() * number_bytes));
      }
      from += run.count() * number_bytes;
    }
  }
}

void WithHandedRows::compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
                             const std::function<void(double)>& advance) {
  const auto bytes_of_row = columns.count() * static_cast<std::int64_t>(bytes_of(storage));
  for (auto row = rows.begin; row < rows.end;) {
    const bool handed = handed_.has(row);
    Rows some{row, row + 1};
    while (some.end < rows.end && handed_.has(some.end) == handed) ++some.end;
    auto* const to = static_cast<char*>(out) + (row - rows.begin) * bytes_of_row;
    if (handed) {
      handed_.copy(some, columns, to);
      if (columns.count() == all_columns_) columns_.fill(some, to, all_columns_);
      advance(static_cast<double>(some.count()));
    } else {
      engine_->compute(some, columns, storage, to, advance);
    }
    row = some.end;
  }
}

}  // namespace hessian_mpi::run
