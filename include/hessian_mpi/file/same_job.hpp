#pragma once
/// Whether two files, or a file and a run, are of the same job: whether their rows belong into one matrix. Not
/// collective.

#include <array>
#include <string>
#include <vector>

#include "hessian_mpi/file/hessian_file.hpp"

namespace hessian_mpi::file {

/// Attributes that decide numbers. Not among them: names of files, whose contents have checksums, and the number of
/// ranks. A test holds the options of hessian_mpi to them.
inline constexpr std::array deciding_attributes{"model_sha256",
                                                "values_sha256",
                                                "data_sha256",
                                                "loss",
                                                "loss_sha256",
                                                "loss_options",
                                                "l2",
                                                "reduction",
                                                "mode",
                                                "batch_size",
                                                "whole",
                                                "samples",
                                                "with_respect_to",
                                                "seed",
                                                "dtype",
                                                "keep_casts",
                                                "threads",
                                                "device",
                                                "matrix",
                                                "entries",
                                                "method",
                                                "accumulate",
                                                "hessian_mpi_version",
                                                "libtorch_version"};

struct JobComparison {
  std::vector<std::string> differences;  ///< "loss: 'mse' in the file, 'l1' now"; none for the same job
  std::vector<std::string> warnings;     ///< what the user should know and may accept
};

/// As text; a number with as many digits as it takes to tell it from others.
std::string text_of(const Attributes::value_type::second_type& value);

/// How a message speaks of the two: "in the file" and "now", say.
struct Sides {
  std::string first;
  std::string second;
};

/// Compares model, data, loss and every option that changes a number, the versions of hessian_mpi and LibTorch, the
/// parameters and their values, the gradient, and the type of the matrix, but not which rows of it are meant.
JobComparison compare_jobs(const HessianLayout& first, const HessianLayout& second, const Sides& sides);

/// Compares the parameters, their values, and there the loss and the gradient, all but for rounding. Where one of the
/// last three differs, the differences go on with what else of model, data and loss does.
JobComparison compare_points(const HessianLayout& first, const HessianLayout& second, const Sides& sides);

/// Which of deciding_attributes that say what is in files differ, as JobComparison has differences.
std::vector<std::string> different_inputs(const Attributes& first, const Attributes& second, const Sides& sides);

}  // namespace hessian_mpi::file
