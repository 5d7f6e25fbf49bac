#pragma once
/// Networks that the scripts of tests/models have written, each in a folder with its options and its reference.

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "hessian_mpi/device.hpp"
#include "hessian_mpi/hdf5.hpp"
#include "hessian_mpi/load_problem.hpp"
#include "hessian_mpi/options.hpp"
#include "hessian_mpi/problem.hpp"
#include "test_device.hpp"

namespace hessian_mpi {

inline std::vector<std::string> lines_of(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

/// What the program would be told: the lines of a file, in which @CASE@ is the folder.
inline Options options_in(const std::filesystem::path& folder, const std::string& file = "options") {
  std::vector<std::string> words{"hessian_mpi"};
  for (auto word : lines_of(folder / file)) {
    const std::string placeholder = "@CASE@";
    const auto at = word.find(placeholder);
    if (at != std::string::npos) word.replace(at, placeholder.size(), folder.string());
    words.push_back(word);
  }
  std::vector<const char*> arguments;
  arguments.reserve(words.size());
  for (const auto& word : words) arguments.push_back(word.c_str());
  return parse_options(static_cast<int>(arguments.size()), arguments.data());
}

struct LoadedProblem {
  Problem problem;
  std::vector<std::string> cures;
};

/// As the program does it, but that one process has one problem after the other: what the last one chose is undone.
inline LoadedProblem load_as_the_program_does(const Options& options, Precision precision) {
  at::set_num_threads(1);
  at::globalContext().setUserEnabledMkldnn(true);
  use_differentiable_kernels();
  const torch::Device device(HESSIAN_MPI_TEST_DEVICE);
  use_device(device);
  auto problem = load_problem(options, precision, device);
  use_fast_convolutions(problem);
  auto cures = probe_second_derivatives(problem);
  return {std::move(problem), std::move(cures)};
}

inline std::vector<double> reference_in(const std::filesystem::path& folder) {
  const auto file = hdf5::File::open_to_read(folder / "reference.h5");
  const auto shape = file.shape("/hessian");
  std::vector<double> numbers(shape[0] * shape[1]);
  file.read("/hessian", hdf5::Type::float64, numbers.data());
  return numbers;
}

}  // namespace hessian_mpi
