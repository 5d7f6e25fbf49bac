#include "hessian_mpi/run/job.hpp"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "hessian_mpi/cli/version.hpp"
#include "hessian_mpi/engines/double_backward.hpp"
#include "hessian_mpi/engines/jacobian_factors.hpp"
#include "hessian_mpi/engines/jacobian_rows.hpp"
#include "hessian_mpi/network/device.hpp"
#include "hessian_mpi/run/assemble.hpp"

namespace hessian_mpi::run {
namespace {

// The rows of this job: all, those that --rows names, or a task's part of them.
Rows rows_of_job(const Options& options, const matrix::BlockGrid& all) {
  if (options.part_of_rows) {
    const auto [part, parts] = *options.part_of_rows;
    const Rows rows = matrix::part_of_grid(all, part, parts);
    if (rows.count() == 0) {
      throw InputError(text("--rows ", part, '/', parts, " has no rows: a matrix with ", all.rows(),
                            " rows is cut into at most ", all.count(), " parts"));
    }
    return rows;
  }
  const Rows rows = options.rows.value_or(Rows{0, all.rows()});
  if (rows.end > all.rows()) {
    throw InputError(text("--rows ", rows.begin, ':', rows.end, ": the Hessian has ", all.rows(), " rows"));
  }
  return rows;
}

std::string text_of_method(const Job& job) {
  if (outputs_of(job) == 0) return layers::text_of(job.plan);
  return text("outputs: ", job.problem.index().size(), " rows from ", outputs_of(job),
              " backward passes, one for each ", job.options.matrix == Matrix::ggn ? "output" : "sample");
}

std::string text_of_loss(const Options& options, const network::Problem& problem) {
  return text(options.loss, problem.loss_options().empty() ? "" : " (" + problem.loss_options() + ")",
              problem.l2() > 0 ? text(" + l2 of ", problem.l2()) : "");
}

UnfactoredRows unfactored_rows(const Options& options, const network::Problem& problem) {
  const auto outputs = engines::outputs_to_factor(problem, options.matrix, options.method);
  if (outputs == 0) return SingleRows{};
  return RowsFromOutputs{outputs};
}

}  // namespace

matrix::MatrixShape matrix_of_job(const Options& options, const network::Problem& problem) {
  auto matrix = matrix::matrix_of(problem.index(), options.storage.value_or(problem.precision()), options.entries);
  if (options.entries == Entries::all) {
    const auto rows = rows_of_job(options, matrix.grid);
    matrix.grid = matrix::BlockGrid(matrix.columns, matrix.bytes_of_row(), rows);
  }
  return matrix;
}

Job plan_job(const Options& options, const network::Problem& problem, matrix::MatrixShape matrix) {
  const bool hessian = options.matrix == Matrix::hessian;
  auto plan = layers::plan_layers(problem, hessian ? options.method : Method::rows, options.entries);
  return {options, problem, std::move(matrix), std::move(plan), unfactored_rows(options, problem)};
}

Precision accumulation(const Job& job) {
  return job.options.accumulate.value_or(job.problem.precision());
}

std::int64_t outputs_of(const Job& job) {
  const auto* from_outputs = std::get_if<RowsFromOutputs>(&job.unfactored);
  return from_outputs == nullptr ? 0 : from_outputs->outputs;
}

std::unique_ptr<engines::Engine> single_rows_engine(const Job& job) {
  if (job.options.matrix == Matrix::hessian) return std::make_unique<engines::DoubleBackward>(job.problem);
  return std::make_unique<engines::JacobianRows>(job.problem, job.options.matrix);
}

std::unique_ptr<engines::Engine> unfactored_rows_engine(const Job& job, const ranks::Communicator& world,
                                                        const std::function<void()>& between) {
  if (std::holds_alternative<SingleRows>(job.unfactored)) return single_rows_engine(job);
  return std::make_unique<engines::JacobianFactors>(job.problem, job.options.matrix, accumulation(job), world, between);
}

std::string name_of_method(const Job& job) {
  return outputs_of(job) > 0 ? "outputs" : job.plan.factors_layers() ? "layers" : "rows";
}

std::string lines_of_methods(const Job& job) {
  if (outputs_of(job) == 0) return layers::lines_of(job.plan, job.problem.index());
  std::string lines;
  for (const auto& entry : job.problem.index().entries()) lines += entry.name + ": outputs\n";
  return lines;
}

Announcement announcement(const Job& job, int ranks, int threads) {
  const auto& options = job.options;
  const auto& problem = job.problem;
  return {cli::versions().hessian_mpi,
          ranks,
          threads,
          network::name_of(problem.device()),
          text(options.model ? options.model->string() : "embedded example", " (", problem.model_format(), ")"),
          options.data ? options.data->string() : "embedded example",
          problem.samples(),
          problem.batches(),
          text_of_loss(options, problem),
          options.reduction,
          text_of_method(job),
          options.method == Method::rows || options.matrix != Matrix::hessian
              ? std::vector<std::string>()
              : layers::text_of_reasons(job.plan, problem.index()),
          static_cast<std::int64_t>(problem.index().entries().size()),
          job.matrix,
          problem.precision(),
          options.output};
}

matrix::BlockList all_blocks(const Job& job) {
  matrix::BlockList blocks(static_cast<std::size_t>(job.matrix.grid.count()));
  std::iota(blocks.begin(), blocks.end(), std::int64_t{0});
  return blocks;
}

LayeredAssembly assembly_of(const Job& job, const matrix::BlockList& blocks, engines::Engine& unfactored,
                            const ranks::Communicator& world) {
  return {job.problem, job.plan, job.matrix, blocks, accumulation(job), unfactored, world};
}

Memory memory_for(const Job& job, const LayeredAssembly& assembly, std::uint64_t all) {
  const auto wide = bytes_of(accumulation(job)) / bytes_of(job.problem.precision());
  const auto of_outputs = static_cast<std::uint64_t>(outputs_of(job) * job.problem.index().size());
  const auto kept = (assembly.factors_layers() ? job.plan.bytes * wide : 0) + of_outputs * bytes_of(accumulation(job));
  const auto rest = all > kept ? all - kept : 0;
  if (rest < all / 4) {
    throw InputError(text("--memory of ", all, " bytes is too little for rows from factors, which keep ", kept,
                          " bytes on a rank: give at least ", (kept / 3 * 4 >> 20) + 1,
                          "M, take more ranks, or use --method rows"));
  }
  const auto most_columns = rest / 2;
  const auto columns = std::min(most_columns, assembly.bytes_of_columns());
  const auto left = (rest - columns) / 2;
  const auto wanted = assembly.factors_layers() ? job.plan.bytes_if_there * wide : 0;
  const auto blocks = blocks_in_memory(assembly.unfactored(), job.matrix, left);
  const auto rows = static_cast<std::uint64_t>(job.matrix.grid.rows_per_block());
  const auto beside = rows * assembly.unfactored().bytes_per_row(job.matrix.longest_row());
  const auto buffers = static_cast<std::uint64_t>(blocks) *
                       (2 * static_cast<std::uint64_t>(job.matrix.bytes_of_largest_block()) + beside);
  return {most_columns, left, blocks, wanted > left ? 4 * (wanted - left) : 0,
          kept + columns + std::min(left, wanted) + buffers};
}

}  // namespace hessian_mpi::run
