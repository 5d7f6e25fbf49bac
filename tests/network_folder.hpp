#pragma once
/// Networks that the scripts of tests/models have written, each in a folder with its options and its reference.

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "hessian_mpi/hdf5/hdf5.hpp"
#include "hessian_mpi/network/device.hpp"
#include "hessian_mpi/network/kernels.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "hessian_mpi/run/load_problem.hpp"
#include "hessian_mpi/run/options.hpp"
#include "test_device.hpp"

namespace hessian_mpi {

inline std::vector<std::string> text_lines(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

/// What the program would be told: the lines of a file, in which @CASE@ is the folder.
inline run::Options options_in(const std::filesystem::path& folder, const std::string& file = "options") {
  std::vector<std::string> words{"hessian_mpi"};
  for (auto word : text_lines(folder / file)) {
    const std::string placeholder = "@CASE@";
    const auto at = word.find(placeholder);
    if (at != std::string::npos) word.replace(at, placeholder.size(), folder.string());
    words.push_back(word);
  }
  std::vector<const char*> arguments;
  arguments.reserve(words.size());
  for (const auto& word : words) arguments.push_back(word.c_str());
  return run::parse_options(static_cast<int>(arguments.size()), arguments.data());
}

struct LoadedProblem {
  std::unique_ptr<network::DifferentiableKernels> kernels;
  network::Problem problem;
  std::vector<std::string> cures;
};

/// As the program does it. One at a time.
inline LoadedProblem load_as_the_program_does(const run::Options& options, Precision precision) {
  const torch::Device device(HESSIAN_MPI_TEST_DEVICE);
  auto kernels = std::make_unique<network::DifferentiableKernels>(device, 1);
  auto problem = run::load_problem(options, precision, device);
  network::use_fast_convolutions(problem);
  auto cures = network::probe_second_derivatives(problem);
  return {std::move(kernels), std::move(problem), std::move(cures)};
}

inline std::vector<double> reference_in(const std::filesystem::path& folder) {
  const auto file = hdf5::File::open_to_read(folder / "reference.h5");
  const auto shape = file.shape("/hessian");
  std::vector<double> numbers(shape[0] * shape[1]);
  file.read("/hessian", hdf5::Type::float64, numbers.data());
  return numbers;
}

}  // namespace hessian_mpi
