#include "hessian_mpi/run/verdict.hpp"

#include <algorithm>
#include <optional>

#include "differences.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/file/file_checks.hpp"
#include "hessian_mpi/network/rounding.hpp"
#include "hessian_mpi/run/derivative_check.hpp"
#include "hessian_mpi/system/page_cache.hpp"
#include "row_check.hpp"

namespace hessian_mpi::run {
namespace {

// Rounding of the coarser of what was computed and what was stored decides what can be expected.
file::Tolerances tolerances_for(const network::Problem& problem, Precision storage) {
  const bool coarse = problem.precision() == Precision::float32 || storage == Precision::float32;
  return file::tolerances_of(coarse ? Precision::float32 : Precision::float64);
}

void read_back(const WrittenFile& file, Verify which, const ranks::Communicator& communicator, Verdict& verdict) {
  const auto blocks = file::verify_blocks(file.path, file.matrix, file.records, file.written, which, communicator);
  verdict.figures.blocks_checked = blocks.checked;
  verdict.figures.blocks = file.matrix.grid.count();
  if (blocks.damaged.empty()) return;
  const Rows rows = file.matrix.grid.block(blocks.damaged.front());
  verdict.failures.push_back(text(blocks.damaged.size(), " of ", blocks.checked,
                                  " row blocks read back are not what was written, the first with rows ", rows.begin,
                                  " to ", rows.end - 1,
                                  ": the file system or MPI-IO damaged them, or another hand; --resume --verify all "
                                  "computes damaged row blocks again (should that end here again, try Open MPI's "
                                  "other MPI-IO: mpirun --mca io romio321)"));
}

// Collective. Where an error is above the tolerance it is compared with what rounding leaves of rows, relative to the
// same number as the error is.
file::CheckFigure judged(double error, double tolerance, const std::function<double()>& rounding,
                         const ranks::Communicator& communicator) {
  constexpr double deviations = 10;
  if (error <= tolerance) return {error, tolerance, file::CheckOutcome::passed};
  double noise = 0;
  communicator.on_root([&] { noise = rounding(); });
  const double allowed = deviations * communicator.max(noise);
  if (!(error <= allowed)) return {error, tolerance, file::CheckOutcome::failed};
  return {error, allowed,
          allowed <= file::largest_tolerance ? file::CheckOutcome::passed : file::CheckOutcome::rounding};
}

// On root.
DifferenceFigures differences(const MakeTwin& make, const network::Problem& problem, Matrix matrix,
                              const network::LossAndGradient& point, const std::vector<Lines>& lines, double scale,
                              const file::DifferenceTolerances& tolerances, Verdict& verdict) {
  try {
    const auto precision = problem.precision();
    const double epsilon = network::coarsest_epsilon(problem);
    const bool has_casts = epsilon > epsilon_of(precision);
    auto twin = make(Precision::float64, NarrowCasts::widened);
    std::optional<network::Problem> own;
    std::optional<network::Problem> with_casts;
    const auto made = [&](std::optional<network::Problem>& one, Precision of_one) -> network::Problem& {
      if (!has_casts && of_one == Precision::float64) return twin;
      if (!one) one.emplace(make(of_one, NarrowCasts::kept));
      return *one;
    };
    const Twins twins{twin, [&]() -> network::Problem& { return made(own, precision); },
                      [&]() -> network::Problem& {
                        return precision == Precision::float64 ? made(own, precision)
                                                               : made(with_casts, Precision::float64);
                      },
                      epsilon, has_casts};
    const auto found = check_differences(twins, matrix, point, lines, scale, tolerances);
    if (found.gradient.outcome != file::CheckOutcome::not_made) return found;
    verdict.warnings.emplace_back(
        "no difference check: the loss in float64 is another one, as where a network draws random numbers of its own; "
        "--dtype float64 makes the check");
  } catch (const InputError& error) {
    verdict.warnings.push_back(text("no difference check: the network does not run in float64: ", error.what()));
  }
  return {};
}

// Collective. Lines through the point, with what the file says of the change along them.
std::vector<Lines> lines_with_products(const WrittenFile& file, const std::vector<std::vector<std::int64_t>>& samples,
                                       const std::vector<double>& gradient, const ranks::Communicator& communicator) {
  std::vector<std::int64_t> rows;
  for (const auto& group : samples) rows.insert(rows.end(), group.begin(), group.end());
  auto all = random_lines(gradient, file.matrix, rows);
  for (auto& lines : all) lines.products = products(file.path, lines, communicator);
  return all;
}

// Collective. What root found, on all ranks.
file::CheckFigure from_root(const file::CheckFigure& figure, const ranks::Communicator& communicator) {
  const auto outcome = communicator.max(std::int64_t{communicator.is_root() ? static_cast<int>(figure.outcome) : 0});
  if (outcome == 0) return {};
  const auto value = [&](double of_root) { return communicator.max(communicator.is_root() ? of_root : 0.0); };
  return {value(figure.error), value(figure.tolerance), static_cast<file::CheckOutcome>(outcome)};
}

std::string text_of_constants(const std::vector<double>& gradient, const network::Problem& problem, Matrix matrix) {
  const auto first = std::find(gradient.begin(), gradient.end(), 0.0) - gradient.begin();
  const auto count = std::count(gradient.begin(), gradient.end(), 0.0);
  return text("the loss changes with some of the ", count, " parameters whose gradient is exactly zero (the first is ",
              problem.index().describe(first),
              "): autograd takes them for constants, as it does with padding_idx of an embedding, and their ",
              has_rows_of_samples(matrix) ? "columns" : "rows of H", " are zero",
              problem.l2() > 0 ? " but for the L2 term" : "");
}

const char* advice(const std::string& name, Matrix matrix) {
  if (name == "difference" && has_rows_of_samples(matrix)) {
    return ": J v is not the change of the outputs or losses; an operation of the network has a wrong derivative, a "
           "part "
           "is cut off the graph (detach, no_grad, padding_idx of an embedding), or float32 is too coarse here (try "
           "--dtype float64)";
  }
  if (name == "difference") {
    return ": H v is not the change of the gradient; an operation of the network has a wrong second derivative, a part "
           "is cut off the graph (detach, no_grad, padding_idx of an embedding), or float32 is too coarse here (try "
           "--dtype float64)";
  }
  if (name == "gradient") {
    return ": the gradient is not the slope of the loss; an operation of the network has a wrong derivative, or a part "
           "is cut off the graph (detach, no_grad, padding_idx of an embedding)";
  }
  return "";
}

void judge(Verdict& verdict, Matrix matrix) {
  for (const auto& [name, figure] : file::named_figures) {
    const auto& check = verdict.figures.*figure;
    if (check.outcome == file::CheckOutcome::failed) {
      verdict.failures.push_back(
          text(name, " error ", check.error, " is above ", check.tolerance, advice(name, matrix)));
    } else if (check.outcome == file::CheckOutcome::kinks) {
      verdict.warnings.push_back(text("no ", name,
                                      " check: this point lies at a kink of the loss (ReLU, max-pool, abs), "
                                      "whose sides differ by ",
                                      check.error,
                                      has_rows_of_samples(matrix) ? "; derivatives are those" : "; H is that",
                                      " of the side autograd takes"));
    }
  }
}

}  // namespace

std::vector<double> gradient_by_graph(const network::Problem& problem, const network::LossAndGradient& point) {
  auto gradient = point.gradient;
  const auto theta = problem.flat_parameters();
  for (std::size_t k = 0; k < gradient.size(); ++k) {
    if (gradient[k] == problem.l2() * theta[k]) gradient[k] = 0;
  }
  return gradient;
}

Verdict check_file(const WrittenFile& file, const network::Problem& problem, Matrix matrix,
                   const network::LossAndGradient& point, const MakeTwin& twin, Verify which, int rows,
                   const std::function<void()>& between_checks, const ranks::Communicator& communicator) {
  Verdict verdict;
  auto& figures = verdict.figures;
  system::forget_pages_of(file.path);
  communicator.wait_for_all();
  read_back(file, which, communicator, verdict);
  between_checks();
  if (rows == 0) return verdict;
  const auto tolerances = tolerances_for(problem, file.matrix.storage);
  const auto samples = file::samples_of(problem.index(), file.matrix);
  const auto again = file::sample_rows(file.matrix.grid.part(), rows);
  const auto rounding_relative_to = [&](double least) {
    auto own = twin(problem.precision(), NarrowCasts::kept);
    return noise_of_rows(own, matrix, file.matrix, again, least);
  };
  const bool has_mirrored_entries = file.matrix.entries != Entries::diagonal && !has_rows_of_samples(matrix);
  if (has_mirrored_entries) {
    double worst = 0;
    for (const auto& group : samples) {
      worst = std::max(worst, file::symmetry_error(file.path, group, file.largest, communicator));
    }
    figures.symmetry = judged(
        worst, tolerances.symmetry, [&] { return rounding_relative_to(file.largest); }, communicator);
  }
  between_checks();
  figures.row = judged(
      row_error(file.path, file.matrix, problem, matrix, again, file.largest, communicator), tolerances.row,
      [&] { return rounding_relative_to(file::floor_of_scale * file.largest); }, communicator);
  between_checks();
  const auto gradient = gradient_by_graph(problem, point);
  const auto lines = lines_with_products(file, samples, gradient, communicator);
  // Of single blocks or entries, which may be small by chance.
  const double scale = file.matrix.has_whole_rows() ? 0 : file::floor_of_scale * file.largest;
  DifferenceFigures found;
  communicator.on_root(
      [&] { found = differences(twin, problem, matrix, point, lines, scale, tolerances.difference, verdict); });
  if (found.constants) verdict.warnings.push_back(text_of_constants(gradient, problem, matrix));
  figures.gradient = from_root(found.gradient, communicator);
  figures.difference = from_root(found.hessian, communicator);
  judge(verdict, matrix);
  return verdict;
}

}  // namespace hessian_mpi::run
