// The program that says what is in a file: command line, report, norms, verification.

#include <algorithm>
#include <boost/program_options.hpp>
#include <iostream>

#include "hessian_mpi/after/file_report.hpp"
#include "hessian_mpi/after/tool_options.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/cli/end_process.hpp"
#include "hessian_mpi/cli/help.hpp"
#include "hessian_mpi/cli/parallel_program.hpp"
#include "hessian_mpi/cli/progress.hpp"
#include "hessian_mpi/cli/report_text.hpp"
#include "hessian_mpi/file/block_table.hpp"
#include "hessian_mpi/file/row_stream.hpp"

namespace hessian_mpi::programs {
namespace {

namespace po = boost::program_options;

struct InfoOptions {
  std::filesystem::path file;
  bool norms = false;
  bool json = false;
  bool verify = false;
  bool mark = false;
  bool help = false;
  bool version = false;
  system::UsedFiles files() const {
    return {file::files_of_matrix(file), std::nullopt, mark ? std::optional(file) : std::nullopt};
  }
};

po::options_description described_options() {
  po::options_description described;
  described.add_options()("norms", po::bool_switch(), "read the rows: trace, Frobenius norm, norm of every block")(
      "verify", po::bool_switch(),
      "read the file and compare it with the checksums taken when it was written; name what is damaged")(
      "mark", po::bool_switch(), "with --verify: have hessian_mpi --resume compute again what is damaged")(
      "json", po::bool_switch(), "the report as JSON, for programs");
  after::describe_general(described);
  return described;
}

InfoOptions parse(int argc, const char* const* argv) {
  const auto given = after::parse_arguments("hessian_info", argc, argv, described_options());
  InfoOptions options;
  options.help = given["help"].as<bool>();
  options.version = given["version"].as<bool>();
  if (options.help || options.version) return options;
  options.file = after::file_of("hessian_info", given);
  options.norms = given["norms"].as<bool>();
  options.json = given["json"].as<bool>();
  options.verify = given["verify"].as<bool>();
  options.mark = given["mark"].as<bool>();
  if (options.mark && !options.verify) throw InputError("--mark goes with --verify");
  return options;
}

void print_info_help(std::ostream& out) {
  out << "hessian_info: what is in a file of hessian_mpi, also while it is being written\n\n"
         "  hessian_info hessian.h5\n"
         "  mpirun -n 4 hessian_info hessian.h5 --norms --verify\n\n"
      << cli::text_of_options("Options", described_options())
      << "\nExit codes: 0 the file could be read; 1 it is damaged, or lacks part files; 2 no file of hessian_mpi.\n";
}

// Shows how far a pass over the blocks on the disk has come.
cli::Progress progress_of(const file::StoredLayout& stored, const ranks::Communicator& world) {
  std::int64_t rows = 0;
  std::int64_t bytes = 0;
  for (const auto b : after::blocks_on_disk(stored)) {
    rows += stored.blocks[static_cast<std::size_t>(b)].rows.count();
    bytes += stored.matrix.bytes_of_rows(stored.blocks[static_cast<std::size_t>(b)].rows);
  }
  return {world.is_root() && cli::is_on_terminal() ? ProgressStyle::bar : ProgressStyle::none,
          rows,
          0,
          static_cast<std::uint64_t>(bytes),
          std::max<std::int64_t>(1, rows / world.size()),
          std::cerr};
}

// Collective. Of the blocks on the disk, each rank reading a contiguous share.
after::MatrixFigures read_figures(const after::FileReport& report, const ranks::Communicator& world) {
  const auto& stored = report.stored;
  after::MatrixSums sums(stored.index);
  auto progress = progress_of(stored, world);
  world.together([&] {
    std::vector<Rows> runs;
    for (const auto b : matrix::share_of_rank(after::blocks_on_disk(stored), world.rank(), world.size())) {
      matrix::append_run(stored.blocks[static_cast<std::size_t>(b)].rows, runs);
    }
    std::vector<Rows> slabs;
    for (const auto& run : runs) {
      const auto some = file::slabs_of(run, stored.matrix);
      slabs.insert(slabs.end(), some.begin(), some.end());
    }
    file::RowStream(report.file, stored.matrix, slabs).each([&](const file::Slab& slab) {
      sums.add(slab);
      progress.advance(static_cast<double>(slab.rows.count()));
    });
  });
  return sums.all(world);
}

// Collective.
file::BlockCheck verify(const after::FileReport& report, const ranks::Communicator& world) {
  const auto& stored = report.stored;
  auto progress = progress_of(stored, world);
  const auto show = [&](std::int64_t rows) { progress.advance(static_cast<double>(rows)); };
  const auto verify_blocks = stored.packed ? file::verify_packed_blocks : file::verify_stored_blocks;
  return verify_blocks(report.file, stored.matrix, stored.blocks, show, world);
}

// Takes back the marks of damaged blocks, and with them that the file is complete.
void mark_damaged(const after::FileReport& report) {
  const auto name = report.file.string();
  if (!report.storage.parts.empty()) {
    std::vector<std::string> damaged;
    for (const auto& part : after::damaged_parts(report)) damaged.push_back(part.file.string());
    throw InputError(
        text("'", name, "' refers to part files: verify and mark those that are damaged, ", joined(damaged, ", ")));
  }
  if (!report.storage.is_plain() || report.stored.packed) {
    throw InputError(text("'", name, "' is a converted copy, which hessian_mpi cannot go on with: convert it again"));
  }
  if (!file::are_of_grid(report.stored.blocks, report.stored.matrix.grid)) {
    throw InputError(text("'", name,
                          "' was joined from parts that were cut inside of blocks, and hessian_mpi cannot go on "
                          "with it: verify and mark the parts, and join them again"));
  }
  file::reopen_hessian_file(report.file);
  file::BlockMarks marks(report.file, report.stored.matrix.grid);
  for (const auto b : report.check->damaged) {
    auto record = report.stored.blocks[static_cast<std::size_t>(b)].record;
    record.on_disk = false;
    marks.write(b, {record});
  }
  marks.sync();
}

ExitCode run(const InfoOptions& options, const ranks::Communicator& world) {
  auto report = world.together([&] {
    auto found = after::report_on(options.file);
    if (options.norms && found.stored.packed) {
      throw InputError(text("--norms are those of a whole matrix: hessian_convert '", options.file.string(),
                            "' WHOLE.h5 makes one of this packed triangle"));
    }
    if (options.norms && found.stored.matrix.entries != Entries::all) {
      throw InputError(text("--norms are those of a whole matrix of parameters by parameters; '", options.file.string(),
                            "' has ", cli::text_of_size(found.stored.matrix)));
    }
    return found;
  });
  file::expect_one_file(options.file, report.stored, world);
  const bool lost = report.storage.lacks_parts();
  if (options.norms && !lost) report.figures = read_figures(report, world);
  if (options.verify && !lost) report.check = verify(report, world);
  if (options.verify) report.sums = world.together([&] { return file::check_sums(options.file); });
  const bool damaged_rows = report.check && !report.check->damaged.empty();
  const bool damaged = damaged_rows || (report.sums && !report.sums->damaged.empty());
  if (damaged_rows && options.mark) {
    world.on_root([&] { mark_damaged(report); });
    report.stored = world.together([&] { return after::read_anything(options.file); });
  }
  const bool sound = after::is_sound(report);
  if (world.is_root() && options.json) std::cout << after::json_of(report) << std::endl;
  if (world.is_root() && !options.json) print(std::cout, report);
  return damaged || !sound ? ExitCode::failed : ExitCode::complete;
}

int start(int argc, char** argv) {
  return cli::run_program({"hessian_info", print_info_help}, argc, argv, parse, run);
}

}  // namespace
}  // namespace hessian_mpi::programs

int main(int argc, char** argv) {
  return hessian_mpi::cli::end_process(hessian_mpi::programs::start(argc, argv));
}
