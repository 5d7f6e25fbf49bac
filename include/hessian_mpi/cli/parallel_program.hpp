#pragma once
/// The frame of a program that runs under mpirun: MPI, one error message, the same exit code on every rank.

#include <functional>
#include <iostream>
#include <memory>
#include <string>

#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/system/output_lock.hpp"
#include "hessian_mpi/system/used_files.hpp"

namespace hessian_mpi::cli {

/// Runs body between the start and the end of MPI and returns the exit code of main. name: the program's, before its
/// errors; a stop that was asked for is told as none. body is collective; what it throws on one rank alone ends all.
/// Bad input, without body: a launcher says that it has started several processes, and MPI knows of this one alone.
int run_parallel_program(const char* name, int argc, char** argv,
                         const std::function<ExitCode(const ranks::Communicator& world)>& body);

/// What a program says of itself.
struct ProgramText {
  const char* name;
  void (*print_help)(std::ostream& out);
  std::string libraries = {};  ///< beside MPI and HDF5, with their versions; may be empty
};
void print_versions(std::ostream& out, const ProgramText& program);

/// On root, as a line on stderr: "program: warning: words".
void warn(const std::string& program, const std::string& words, const ranks::Communicator& world);

/// Collective. Refuses inputs and an output that the program must not touch (used_files.hpp), before anything else.
void expect_files(const system::UsedFiles& files, const ranks::Communicator& world);

/// Holds what a program writes or changes (output_lock.hpp), if it does; name: the program's. Not collective: for the
/// one process that writes.
std::unique_ptr<system::OutputLock> lock_output(const std::string& name, const system::UsedFiles& files);

/// Collective. Runs what writes or changes files while root holds them.
ExitCode run_as_owner(const std::string& name, const system::UsedFiles& files, const ranks::Communicator& world,
                      const std::function<ExitCode()>& run);

/// Throws RunError where what was printed has not reached standard output.
void expect_printed();

/// The frame of a program with a command line: parse(argc, argv) makes options that have the flags help and version,
/// and files() that they name, on every rank; run(options, world), collective, does what they say and returns the exit
/// code. print_more(options, world), on root, follows the versions of --version.
template <class Parse, class Run, class PrintMore>
int run_program(const ProgramText& program, int argc, char** argv, const Parse& parse, const Run& run,
                const PrintMore& print_more) {
  return run_parallel_program(program.name, argc, argv, [&](const ranks::Communicator& world) {
    const auto options = world.together([&] { return parse(argc, argv); });
    if (!options.help && !options.version) {
      const auto files = world.together([&] { return options.files(); });
      expect_files(files, world);
      return run_as_owner(program.name, files, world, [&] { return run(options, world); });
    }
    if (world.is_root() && options.help) program.print_help(std::cout);
    if (world.is_root() && options.version) {
      print_versions(std::cout, program);
      print_more(options, world);
    }
    return ExitCode::complete;
  });
}
template <class Parse, class Run>
int run_program(const ProgramText& program, int argc, char** argv, const Parse& parse, const Run& run) {
  return run_program(program, argc, argv, parse, run, [](const auto&, const ranks::Communicator&) {});
}

/// A line of what such a program reports: what, and what of it. Root's alone.
void say(const ranks::Communicator& world, const std::string& what, const std::string& words);

}  // namespace hessian_mpi::cli
