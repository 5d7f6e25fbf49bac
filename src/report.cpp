#include "hessian_mpi/report.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <ostream>
#include <sstream>

#include "hessian_mpi/error.hpp"
#include "hessian_mpi/quantity.hpp"
#include "hessian_mpi/report_text.hpp"

namespace hessian_mpi {

void print(std::ostream& out, const Announcement& a) {
  out << "hessian_mpi " << a.version << " on " << plural(a.ranks, "rank") << ", " << plural(a.threads, "thread")
      << " each" << (a.device == "cpu" ? "" : text(", device ", a.device)) << '\n';
  print_line(out, "model", a.model);
  print_line(out, "data", text(a.data, ", ", plural(a.samples, "sample"), " in ", plural(a.batches, "batch", "es")));
  print_line(out, "loss", text(a.loss, ", ", name_of(a.reduction), ", derived in ", name_of(a.dtype)));
  print_line(out, "parameters", text("N = ", a.matrix.columns, " in ", plural(a.parameter_tensors, "tensor")));
  print_line(out, "Hessian", text_of_size(a.matrix));
  print_line(out, "method", a.method);
  for (const auto& some : a.rows_by_row) print_line(out, "  row by row", some);
  print_line(out, "output", a.output.string());
  out << std::flush;
}

double seconds_of_job(const Forecast& f, int ranks) {
  return f.serial + std::max(f.estimate.processing(ranks), f.estimate.writing());
}

void print(std::ostream& out, const Forecast& f) {
  constexpr int most_ranks = 1024;
  out << "plan: nothing is written\n";
  for (const auto& way : f.ways) print_line(out, "rows", way);
  print_line(out, "memory", text("at most ", text_of_bytes(f.memory), " a rank"));
  if (f.estimate.plain_row > 0)
    print_line(out, "plain row", text(text_of_number(1e3 * f.estimate.plain_row, 3), " ms, measured"));
  print_line(out, "computing",
             text(text_of_seconds(f.estimate.computing(1)), " on one rank, ",
                  text_of_seconds(f.estimate.computing(f.ranks)), " on ", f.ranks));
  print_line(out, "writing",
             text(text_of_bytes(f.estimate.bytes), " at ",
                  text_of_bytes(static_cast<std::uint64_t>(f.estimate.bytes_a_second)),
                  "/s, measured: ", text_of_seconds(f.estimate.writing())));
  print_line(out, "whole job", text(text_of_seconds(seconds_of_job(f, f.ranks)), " on ", plural(f.ranks, "rank")));
  int worth = f.ranks;
  for (int ranks = 1; ranks <= most_ranks; ranks *= 4) {
    print_line(out, text("  on ", plural(ranks, "rank")), text_of_seconds(seconds_of_job(f, ranks)));
    if (seconds_of_job(f, ranks) < 0.7 * seconds_of_job(f, worth)) worth = ranks;
  }
  const auto seconds = std::llround(2 * seconds_of_job(f, worth)) + 300;  // twice, and what a start may take
  std::ostringstream time;
  time << std::setfill('0') << std::setw(2) << seconds / 3600 << ':' << std::setw(2) << seconds / 60 % 60 << ":00";
  print_line(out, "on Slurm",
             text("sbatch --ntasks=", worth, " --cpus-per-task=", f.threads,
                  " --mem-per-cpu=", (f.memory / static_cast<std::uint64_t>(f.threads) >> 20) + 1,
                  "M --time=", time.str(), " slurm/one_node.sbatch", f.options));
  out << std::flush;
}

void print(std::ostream& out, const Summary& s) {
  out << s.output.string() << (s.complete ? ": complete\n" : ": NOT complete\n");
  print_line(out, "Hessian", text_of_size(s.matrix));
  print_line(out, "loss", text_of_number(s.loss, 10));
  print_line(out, "gradient norm", text_of_number(s.gradient_norm, 6));
  print_line(out, "largest |H|", text_of_number(s.largest, 6));
  print_line(out, "blocks verified", text(s.checks.blocks_checked, " of ", s.checks.blocks));
  if (s.blocks_resumed > 0) print_line(out, "blocks resumed", text(s.blocks_resumed, ", computed by earlier runs"));
  for (const auto& [name, figure] : named_figures)
    print_line(out, text(name, " error"), text_of_check(s.checks.*figure));
  const auto& t = s.seconds;
  print_line(out, "seconds",
             text("load ", text_of_number(t.load, 3), ", gradient ", text_of_number(t.gradient, 3), ", create ",
                  text_of_number(t.create, 3), ", rows ", text_of_number(t.rows, 3), ", write ",
                  text_of_number(t.write, 3), " (checkpoints ", text_of_number(t.checkpoints, 3), "), checks ",
                  text_of_number(t.checks, 3), "; in all ", text_of_number(t.all, 3)));
  const auto made = static_cast<double>(s.matrix.grid.part().count()) *
                    (1 - static_cast<double>(s.blocks_resumed) / static_cast<double>(s.matrix.grid.count()));
  const double rate = t.rows > 0 ? made / t.rows : 0;
  print_line(out, "rows a second", rate < 100 ? text_of_number(rate, 3) : text(std::llround(rate)));
  print_line(out, "memory", text(text_of_bytes(s.peak_memory), " on the largest rank"));
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
