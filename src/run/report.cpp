#include "hessian_mpi/run/report.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <ostream>
#include <sstream>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/quantity.hpp"
#include "hessian_mpi/cli/report_text.hpp"

namespace hessian_mpi::run {

void print(std::ostream& out, const Announcement& a) {
  out << "hessian_mpi " << a.version << " on " << cli::plural(a.ranks, "rank") << ", "
      << cli::plural(a.threads, "thread") << " each" << (a.device == "cpu" ? "" : text(", device ", a.device)) << '\n';
  cli::print_line(out, "model", a.model);
  cli::print_line(out, "data",
                  text(a.data, ", ", cli::plural(a.samples, "sample"), " in ", cli::plural(a.batches, "batch", "es")));
  cli::print_line(out, "loss", text(a.loss, ", ", name_of(a.reduction), ", derived in ", name_of(a.dtype)));
  cli::print_line(out, a.by_inputs ? "inputs" : "parameters",
                  text("N = ", a.matrix.columns, " in ", cli::plural(a.tensors, "tensor")));
  cli::print_line(out, a.title, cli::text_of_size(a.matrix));
  cli::print_line(out, "method", a.method);
  for (const auto& some : a.by_double_backward) cli::print_line(out, "  double-backward", some);
  cli::print_line(out, "output", a.output.string());
  out << std::flush;
}

void print(std::ostream& out, const Forecast& f) {
  constexpr int most_ranks = 1024;
  out << "plan: nothing is written\n";
  for (const auto& way : f.ways) cli::print_line(out, "rows", way);
  cli::print_line(out, "memory", text("at most ", text_of_bytes(f.memory), " a rank"));
  if (f.estimate.double_backward_row > 0)
    cli::print_line(out, f.pass,
                    text(cli::text_of_number(1e3 * f.estimate.double_backward_row, 3), " ms a row, measured"));
  cli::print_line(out, "computing",
                  text(text_of_seconds(f.estimate.computing(1)), " on one rank, ",
                       text_of_seconds(f.estimate.computing(f.ranks)), " on ", f.ranks));
  cli::print_line(out, "writing",
                  text(text_of_bytes(f.estimate.bytes), " at ",
                       text_of_bytes(static_cast<std::uint64_t>(f.estimate.bytes_a_second)),
                       "/s, measured: ", text_of_seconds(f.estimate.writing())));
  cli::print_line(out, "whole job",
                  text(text_of_seconds(seconds_of_job(f, f.ranks)), " on ", cli::plural(f.ranks, "rank")));
  int worth = f.ranks;
  for (int ranks = 1; ranks <= most_ranks; ranks *= 4) {
    cli::print_line(out, text("  on ", cli::plural(ranks, "rank")), text_of_seconds(seconds_of_job(f, ranks)));
    if (seconds_of_job(f, ranks) < 0.7 * seconds_of_job(f, worth)) worth = ranks;
  }
  const auto seconds = std::llround(2 * seconds_of_job(f, worth)) + 300;  // twice, and what a start may take
  std::ostringstream time;
  time << std::setfill('0') << std::setw(2) << seconds / 3600 << ':' << std::setw(2) << seconds / 60 % 60 << ":00";
  cli::print_line(out, "on Slurm",
                  text("sbatch --ntasks=", worth, " --cpus-per-task=", f.threads,
                       " --mem-per-cpu=", (f.memory / static_cast<std::uint64_t>(f.threads) >> 20) + 1,
                       "M --time=", time.str(), " slurm/one_node.sbatch", f.options));
  out << std::flush;
}

void print(std::ostream& out, const Summary& s) {
  out << s.output.string() << (s.complete ? ": complete\n" : ": NOT complete\n");
  cli::print_line(out, s.title, cli::text_of_size(s.matrix));
  cli::print_line(out, "loss", cli::text_of_number(s.loss, 10));
  cli::print_line(out, "gradient norm", cli::text_of_number(s.gradient_norm, 6));
  cli::print_line(out, cli::title_of_largest(s.matrix), cli::text_of_number(s.largest, 6));
  cli::print_line(out, "verified", text(s.checks.blocks_checked, " of ", cli::plural(s.checks.blocks, "row block")));
  if (s.blocks_resumed > 0)
    cli::print_line(out, "resumed", text(cli::plural(s.blocks_resumed, "row block"), ", computed by earlier runs"));
  for (const auto& [name, figure] : file::named_figures)
    cli::print_line(out, text(name, " error"), cli::text_of_check(s.checks.*figure));
  const auto& t = s.seconds;
  cli::print_line(
      out, "seconds",
      text("load ", cli::text_of_number(t.load, 3), ", gradient ", cli::text_of_number(t.gradient, 3), ", create ",
           cli::text_of_number(t.create, 3), ", rows ", cli::text_of_number(t.rows, 3), " (passes ",
           cli::text_of_number(t.passes, 3), ", exchange ", cli::text_of_number(t.exchange, 3), "), write ",
           cli::text_of_number(t.write, 3), " (checkpoints ", cli::text_of_number(t.checkpoints, 3), "), checks ",
           cli::text_of_number(t.checks, 3), "; in all ", cli::text_of_number(t.all, 3)));
  const auto made = static_cast<double>(s.matrix.grid.part().count()) *
                    (1 - static_cast<double>(s.blocks_resumed) / static_cast<double>(s.matrix.grid.count()));
  const double rate = t.rows > 0 ? made / t.rows : 0;
  cli::print_line(out, "rows a second", rate < 100 ? cli::text_of_number(rate, 3) : text(std::llround(rate)));
  cli::print_line(out, "memory", text(text_of_bytes(s.peak_memory), " on the largest rank"));
  out << std::flush;
}

}  // namespace hessian_mpi::run
