#include "hessian_mpi/report.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <ostream>

#include "hessian_mpi/error.hpp"
#include "hessian_mpi/progress.hpp"

namespace hessian_mpi {
namespace {

void line(std::ostream& out, const std::string& name, const std::string& value) {
  out << "  " << std::left << std::setw(18) << name << value << '\n';
}

std::string number(double value, int digits) {
  std::ostringstream out;
  out << std::setprecision(digits) << value;
  return out.str();
}

std::string text_of_check(const CheckFigure& check) {
  if (check.outcome == CheckOutcome::not_made) return "not checked";
  const auto* what =
      check.outcome == CheckOutcome::kinks ? "kinks at this point, nothing to compare with" : name_of(check.outcome);
  return text(number(check.error, 2), "  ", what, " (at most ", number(check.tolerance, 2), ')');
}

std::string plural(std::int64_t count, const std::string& noun, const std::string& ending = "s") {
  return text(count, ' ', noun, count == 1 ? "" : ending);
}

std::string size_of_matrix(const MatrixShape& matrix) {
  const Rows& part = matrix.grid.part();
  const auto which =
      part.count() == matrix.grid.rows() ? std::string() : text("rows ", part.begin, ':', part.end, " of ");
  return text(which, matrix.grid.rows(), " x ", matrix.columns, ' ', name_of(matrix.storage), ", ",
              text_of_bytes(static_cast<std::uint64_t>(matrix.bytes())));
}

}  // namespace

void print(std::ostream& out, const Announcement& a) {
  out << "hessian_mpi " << a.version << " on " << plural(a.ranks, "rank") << ", " << plural(a.threads, "thread")
      << " each\n";
  line(out, "model", a.model);
  line(out, "data", text(a.data, ", ", plural(a.samples, "sample"), " in ", plural(a.batches, "batch", "es")));
  line(out, "loss", text(a.loss, ", ", name_of(a.reduction), ", derived in ", name_of(a.dtype)));
  line(out, "parameters", text("N = ", a.matrix.columns, " in ", plural(a.parameter_tensors, "tensor")));
  line(out, "Hessian", size_of_matrix(a.matrix));
  line(out, "method", a.method);
  for (const auto& some : a.rows_by_row) line(out, "  row by row", some);
  line(out, "output", a.output.string());
  out << std::flush;
}

double seconds_of_job(const Forecast& f, int ranks) {
  // What is written goes through the memory of the ranks that compute.
  constexpr double copied_a_second = 3e9;
  const double copying = static_cast<double>(f.estimate.bytes) / copied_a_second / ranks;
  return f.serial + std::max(f.estimate.computing(ranks) + copying, f.estimate.writing());
}

void print(std::ostream& out, const Forecast& f) {
  constexpr int most_ranks = 1024;
  out << "plan: nothing is written\n";
  for (const auto& way : f.ways) line(out, "rows", way);
  line(out, "memory", text("at most ", text_of_bytes(f.memory), " a rank"));
  if (f.estimate.plain_row > 0) line(out, "plain row", text(number(1e3 * f.estimate.plain_row, 3), " ms, measured"));
  line(out, "computing",
       text(text_of_seconds(f.estimate.computing(1)), " on one rank, ", text_of_seconds(f.estimate.computing(f.ranks)),
            " on ", f.ranks));
  line(out, "writing",
       text(text_of_bytes(f.estimate.bytes), " at ",
            text_of_bytes(static_cast<std::uint64_t>(f.estimate.bytes_a_second)),
            "/s, measured: ", text_of_seconds(f.estimate.writing())));
  line(out, "whole job", text(text_of_seconds(seconds_of_job(f, f.ranks)), " on ", plural(f.ranks, "rank")));
  int worth = f.ranks;
  for (int ranks = 1; ranks <= most_ranks; ranks *= 4) {
    line(out, text("  on ", plural(ranks, "rank")), text_of_seconds(seconds_of_job(f, ranks)));
    if (seconds_of_job(f, ranks) < 0.7 * seconds_of_job(f, worth)) worth = ranks;
  }
  const auto seconds = std::llround(2 * seconds_of_job(f, worth)) + 300;  // twice, and what a start may take
  std::ostringstream time;
  time << std::setfill('0') << std::setw(2) << seconds / 3600 << ':' << std::setw(2) << seconds / 60 % 60 << ":00";
  line(out, "on Slurm",
       text("sbatch --ntasks=", worth, " --cpus-per-task=", f.threads,
            " --mem-per-cpu=", (f.memory / static_cast<std::uint64_t>(f.threads) >> 20) + 1, "M --time=", time.str(),
            " slurm/one_node.sbatch", f.options));
  out << std::flush;
}

void print(std::ostream& out, const Summary& s) {
  out << s.output.string() << (s.complete ? ": complete\n" : ": NOT complete\n");
  line(out, "Hessian", size_of_matrix(s.matrix));
  line(out, "loss", number(s.loss, 10));
  line(out, "gradient norm", number(s.gradient_norm, 6));
  line(out, "largest |H|", number(s.largest, 6));
  line(out, "blocks verified", text(s.checks.blocks_checked, " of ", s.checks.blocks));
  if (s.blocks_resumed > 0) line(out, "blocks resumed", text(s.blocks_resumed, ", computed by earlier runs"));
  for (const auto& [name, figure] : named_figures) line(out, text(name, " error"), text_of_check(s.checks.*figure));
  const auto& t = s.seconds;
  line(out, "seconds",
       text("load ", number(t.load, 3), ", gradient ", number(t.gradient, 3), ", create ", number(t.create, 3),
            ", rows ", number(t.rows, 3), ", write ", number(t.write, 3), " (checkpoints ", number(t.checkpoints, 3),
            "), checks ", number(t.checks, 3), "; in all ", number(t.all, 3)));
  const auto made = static_cast<double>(s.matrix.grid.part().count()) *
                    (1 - static_cast<double>(s.blocks_resumed) / static_cast<double>(s.matrix.grid.count()));
  const double rate = t.rows > 0 ? made / t.rows : 0;
  line(out, "rows a second", rate < 100 ? number(rate, 3) : text(std::llround(rate)));
  line(out, "memory", text(text_of_bytes(s.peak_memory), " on the largest rank"));
  out << std::flush;
}

std::string text_of_rows(const std::vector<std::int64_t>& rows, const ParameterIndex& index) {
  constexpr std::size_t most = 5;
  std::string listed;
  for (std::size_t k = 0; k < std::min(rows.size(), most); ++k) {
    listed += text(k == 0 ? "" : ", ", rows[k], " (", index.describe(rows[k]), ')');
  }
  return text(plural(static_cast<std::int64_t>(rows.size()), "row"), ": ", listed, rows.size() > most ? ", ..." : "");
}

}  // namespace hessian_mpi
