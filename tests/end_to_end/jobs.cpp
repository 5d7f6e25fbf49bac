// hessian_mpi, its main unchanged, for tests that have many short jobs, whose time a start of LibTorch and MPI for each
// would multiply:
//   mpirun -n 3 hessian_mpi_jobs --jobs LIST     the jobs of a file, one after the other, in one process a rank
//   mpirun -n 3 hessian_mpi_jobs [OPTION]...     as hessian_mpi
// A job in the file: the folder that it runs in, the name that the files of its exit code (.code), stdout (.out) and
// stderr (.err) are to have, then its arguments, each on a line; an empty line ends it.

#include <ATen/Context.h>
#include <fcntl.h>
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "hessian_mpi/cli/end_process.hpp"

int hessian_mpi_main(int argc, char** argv);  // hessian_mpi.cpp, compiled with another name for its main

// In the place of the library's: other jobs follow, and main() ends the process.
int hessian_mpi::cli::end_process(int code) noexcept {
  return code;
}

// MPI starts once and ends once in a process: what hessian_mpi.cpp calls starts it with the first job, and main() ends
// it.
extern "C" int MPI_Init_thread(int* argc, char*** argv, int required, int* provided) {
  int started = 0;
  PMPI_Initialized(&started);
  if (started == 0) return PMPI_Init_thread(argc, argv, required, provided);
  return PMPI_Query_thread(provided);
}
extern "C" int MPI_Finalize() {
  return MPI_SUCCESS;
}

namespace {

struct Job {
  std::string folder;
  std::string name;
  std::vector<std::string> arguments;
};

std::vector<Job> jobs_of(const std::string& list) {
  std::ifstream in(list);
  std::vector<Job> jobs;
  for (Job job; std::getline(in, job.folder);) {
    std::getline(in, job.name);
    job.arguments.clear();
    for (std::string line; std::getline(in, line) && !line.empty();) job.arguments.push_back(line);
    jobs.push_back(job);
  }
  return jobs;
}

// All ranks write to one file, as they write to one terminal.
void redirect(int descriptor, const std::string& file) {
  const int opened = open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (opened < 0 || dup2(opened, descriptor) < 0) MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
  close(opened);
}

int run(const Job& job) {
  at::manual_seed(c10::default_rng_seed_val);
  std::filesystem::current_path(job.folder);
  redirect(STDOUT_FILENO, job.name + ".out");
  redirect(STDERR_FILENO, job.name + ".err");
  std::cout.copyfmt(std::ios(nullptr));
  std::vector<std::string> words = job.arguments;
  std::vector<char*> argv{const_cast<char*>("hessian_mpi")};
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const int code = hessian_mpi_main(static_cast<int>(argv.size()) - 1, argv.data());
  std::cout.flush();
  return code;
}

// The largest exit code of a rank, as of mpirun. A file of a job in whose midst a rank ends for good is never made.
void run_all(const std::vector<Job>& jobs) {
  for (const auto& job : jobs) {
    int code = run(job);
    MPI_Allreduce(MPI_IN_PLACE, &code, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (rank == 0) std::ofstream(job.name + ".code") << code;
  }
}

}  // namespace

int main(int argc, char** argv) {
  int code = 0;
  if (argc == 3 && std::string_view(argv[1]) == "--jobs") {
    run_all(jobs_of(argv[2]));
  } else {
    code = hessian_mpi_main(argc, argv);
  }
  PMPI_Finalize();
  return code;
}
