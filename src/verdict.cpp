#include "hessian_mpi/verdict.hpp"

#include <limits>

#include "hessian_mpi/error.hpp"

namespace hessian_mpi {
namespace {

// Rounding of the coarser of what was computed and what was stored decides what can be expected.
Tolerances tolerances_for(const Problem& problem, Precision storage) {
  const bool coarse = problem.precision() == Precision::float32 || storage == Precision::float32;
  return tolerances_of(coarse ? Precision::float32 : Precision::float64);
}

void read_back(const WrittenFile& file, Verify which, const Communicator& communicator, Verdict& verdict) {
  const auto blocks = verify_blocks(file.path, file.matrix, file.records, file.written, which, communicator);
  verdict.figures.blocks_checked = blocks.checked;
  verdict.figures.blocks = file.matrix.grid.count();
  if (blocks.damaged.empty()) return;
  const Rows rows = file.matrix.grid.block(blocks.damaged.front());
  verdict.failures.push_back(text(blocks.damaged.size(), " of ", blocks.checked,
                                  " blocks read back are not what was written, the first with rows ", rows.begin,
                                  " to ", rows.end - 1,
                                  ": the file system or MPI-IO damaged them, or another hand; --resume --verify all "
                                  "computes damaged blocks again (should "
                                  "that end here again, try mpirun --mca io romio321)"));
}

void judge(const Tolerances& tolerances, Verdict& verdict) {
  const auto fail_above = [&](const char* name, double figure, double tolerance) {
    if (!(figure <= tolerance)) verdict.failures.push_back(text(name, ' ', figure, " is above ", tolerance));
  };
  fail_above("symmetry error", verdict.figures.symmetry_error, tolerances.symmetry);
  fail_above("row error", verdict.figures.row_error, tolerances.row);
  if (verdict.figures.difference_error > tolerances.difference) {
    verdict.warnings.push_back(text("H v and central differences of the gradient differ by ",
                                    verdict.figures.difference_error, " (above ", tolerances.difference,
                                    "): kinks (ReLU, max-pool) near this point, or an operation whose derivative is "
                                    "wrong"));
  }
}

}  // namespace

Verdict check_file(const WrittenFile& file, const Problem& problem, const std::function<Problem()>& float64_twin,
                   Verify which, int rows, const std::function<void()>& between_checks,
                   const Communicator& communicator) {
  Verdict verdict;
  auto& figures = verdict.figures;
  read_back(file, which, communicator, verdict);
  between_checks();
  if (rows == 0) {
    figures.symmetry_error = figures.row_error = figures.difference_error = std::numeric_limits<double>::quiet_NaN();
    return verdict;
  }
  const Rows& part = file.matrix.grid.part();
  const auto sample = sample_rows(part, rows);
  figures.symmetry_error =
      symmetry_error(file.path, sample_for_symmetry(problem.index(), part), file.largest, communicator);
  between_checks();
  figures.row_error = row_error(file.path, problem, sample, file.largest, communicator);
  between_checks();
  figures.difference_error = std::numeric_limits<double>::quiet_NaN();
  communicator.on_root([&] {
    try {
      auto twin = float64_twin();
      figures.difference_error = difference_error(file.path, twin, sample);
    } catch (const InputError& error) {
      verdict.warnings.push_back(text("no difference check: the network does not run in float64: ", error.what()));
    }
  });
  judge(tolerances_for(problem, file.matrix.storage), verdict);
  return verdict;
}

}  // namespace hessian_mpi
