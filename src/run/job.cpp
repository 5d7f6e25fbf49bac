#include "hessian_mpi/run/job.hpp"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "hessian_mpi/cli/report_text.hpp"
#include "hessian_mpi/cli/version.hpp"
#include "hessian_mpi/engines/double_backward.hpp"
#include "hessian_mpi/engines/jacobian_rows.hpp"
#include "hessian_mpi/engines/rows_of_samples.hpp"
#include "hessian_mpi/layers/jacobian_factors.hpp"
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
    throw InputError(text("--rows ", rows.begin, ':', rows.end, ": the ",
                          has_rows_of_samples(options.matrix) ? "matrix" : "Hessian", " has ", all.rows(), " rows"));
  }
  return rows;
}

std::string text_of_method(const Job& job) {
  if (has_rows_of_samples(job.options.matrix)) {
    const auto rows = text("rows: ", job.matrix.grid.part().count(), " from a backward pass each, through ");
    return rows + (job.alone ? "its sample alone" : "the batch of its sample");
  }
  if (!job.jacobian) return layers::text_of(job.plan);
  const auto at_once = job.jacobian->outputs_of_sample * job.problem.batches();
  const auto others = job.jacobian->passes - at_once;
  const std::string line = text("outputs: ", job.problem.index().size(), " rows from ");
  if (at_once == 0) return line + text(others, " backward passes, each for one output");
  return line + text(at_once, " backward ", at_once == 1 ? "pass" : "passes", ", each for all samples at once",
                     others == 0 ? "" : text(", and ", others, ", each for one output"));
}

// Whether products of J take less than the plan that the job has.
bool is_worth_it(const layers::JacobianPlan& jacobian, const Job& job) {
  const auto n = job.problem.index().size();
  if (job.plan.factors_layers()) return jacobian.cost < layers::cost_of(job.plan, job.problem.index(), {0, n});
  constexpr std::int64_t passes_of_row = 3;
  return job.options.method == Method::layers || jacobian.passes <= passes_of_row * n * job.problem.batches();
}

std::string text_of_loss(const network::Problem& problem) {
  if (problem.loss_name() == "none") return "none, since there are no targets: the sum of outputs in its place";
  return text(problem.loss_name(), problem.loss_options().empty() ? "" : " (" + problem.loss_options() + ")",
              problem.l2() > 0 ? text(" + l2 of ", problem.l2()) : "");
}

}  // namespace

matrix::MatrixShape matrix_of_job(const Options& options, const network::Problem& problem) {
  const auto storage = options.storage.value_or(problem.precision());
  const auto matrix = has_rows_of_samples(options.matrix)
                          ? matrix::matrix_of_samples(problem.index(), storage, problem.samples(),
                                                      engines::rows_of_sample(problem, options.matrix))
                          : matrix::matrix_of(problem.index(), storage, options.entries);
  return matrix.has_whole_rows() ? matrix.part(rows_of_job(options, matrix.grid)) : matrix;
}

Job plan_job(const Options& options, const network::Problem& problem, matrix::MatrixShape matrix) {
  if (has_rows_of_samples(options.matrix)) {
    const bool alone = engines::RowsOfSamples(problem, options.matrix).runs_samples_alone();
    return {options, problem, std::move(matrix), layers::plan_layers(problem, Method::rows), {}, alone};
  }
  // J of a Fisher matrix has one row for each sample: nothing takes less.
  const bool by_layer = options.matrix != Matrix::fisher;
  Job job{options,
          problem,
          std::move(matrix),
          layers::plan_layers(problem, by_layer ? options.method : Method::rows, options.entries),
          {}};
  if (options.matrix == Matrix::hessian || options.method == Method::rows) return job;
  auto jacobian = layers::plan_jacobian(problem, options.entries);
  if (!is_worth_it(jacobian, job)) return job;
  job.plan = layers::plan_products(problem, jacobian, job.matrix);
  job.jacobian = std::move(jacobian);
  return job;
}

Work work_of(const Job& job, const Rows& rows) {
  if (has_rows_of_samples(job.options.matrix)) return {0, static_cast<double>(rows.count())};
  return layers::work_of(job.plan, job.problem.index(), rows);
}

Precision accumulation(const Job& job) {
  return job.options.accumulate.value_or(job.problem.precision());
}

std::unique_ptr<engines::Engine> single_rows_engine(const Job& job) {
  if (job.options.matrix == Matrix::hessian) return std::make_unique<engines::DoubleBackward>(job.problem);
  if (has_rows_of_samples(job.options.matrix)) {
    return std::make_unique<engines::RowsOfSamples>(job.problem, job.options.matrix);
  }
  return std::make_unique<engines::JacobianRows>(job.problem, job.options.matrix);
}

std::unique_ptr<engines::Engine> unfactored_rows_engine(const Job& job, const ranks::Communicator& world,
                                                        const std::function<void()>& between) {
  if (!job.jacobian) return single_rows_engine(job);
  return std::make_unique<layers::JacobianFactors>(job.problem, *job.jacobian, accumulation(job), world, between);
}

std::string name_of_method(const Job& job) {
  return job.jacobian ? "outputs" : job.plan.factors_layers() ? "layers" : "rows";
}

std::string lines_of_methods(const Job& job) {
  const bool of_samples = has_rows_of_samples(job.options.matrix);
  if (!job.jacobian && !of_samples) return layers::lines_of(job.plan, job.problem.index());
  std::string lines;
  for (const auto& entry : job.problem.index().entries()) {
    lines += entry.name + (of_samples ? ": rows\n" : ": outputs\n");
  }
  return lines;
}

Announcement announcement(const Job& job, int ranks, int threads) {
  const auto& options = job.options;
  const auto& problem = job.problem;
  const bool by_plan =
      options.method != Method::rows && !job.jacobian && !problem.by_inputs() && !has_rows_of_samples(options.matrix);
  return {cli::versions().hessian_mpi,
          ranks,
          threads,
          network::name_of(problem.device()),
          text(options.model ? options.model->string() : "embedded example", " (", problem.model_format(), ")",
               options.values ? text(", values of ", options.values->string()) : ""),
          options.data ? options.data->string() : "embedded example",
          problem.samples(),
          problem.batches(),
          text_of_loss(problem),
          options.reduction,
          text_of_method(job),
          by_plan ? layers::text_of_reasons(job.plan, problem.index()) : std::vector<std::string>(),
          problem.by_inputs(),
          static_cast<std::int64_t>(problem.index().entries().size()),
          job.matrix,
          problem.precision(),
          options.output,
          cli::title_of(name_of(options.matrix))};
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
  const auto kept = (assembly.factors_layers() ? job.plan.bytes * wide : 0) + assembly.bytes_beside() +
                    (job.jacobian ? job.jacobian->bytes * wide : 0);
  const auto rest = all > kept ? all - kept : 0;
  if (rest < all / 4) {
    throw InputError(text("--memory of ", all, " bytes is too little for rows from factors, which keep ", kept,
                          " bytes on a rank: give at least ", (kept / 3 * 4 >> 20) + 1,
                          "M, take more ranks, or use --method rows"));
  }
  const auto most_columns = rest / 2;
  const auto columns = std::min(most_columns, assembly.bytes_of_columns());
  const auto left = (rest - columns) / 2;
  const auto for_each_once = assembly.memory_for_passes_once();
  const auto blocks = blocks_in_memory(assembly.unfactored(), job.matrix, left);
  const auto rows = static_cast<std::uint64_t>(job.matrix.grid.rows_per_block());
  const auto beside = rows * assembly.unfactored().bytes_per_row(job.matrix.longest_row());
  const auto buffers = static_cast<std::uint64_t>(blocks) *
                       (2 * static_cast<std::uint64_t>(job.matrix.bytes_of_largest_block()) + beside);
  return {most_columns, left, blocks, for_each_once > left ? 4 * (for_each_once - left) : 0,
          kept + job.plan.bytes_of_tail + columns +
              std::min(left, assembly.bytes_of_passes() + assembly.bytes_handed()) + buffers};
}

}  // namespace hessian_mpi::run
