#pragma once
/// What the program wrote against what PyTorch derived: the folders of end_to_end_models.py and architectures.py.

#include <filesystem>
#include <string>
#include <vector>

#include "program.hpp"
#include "stored_file.hpp"

namespace end_to_end {

/// What the program is to be told: the lines of a file, in which @CASE@ is the folder.
Words options_in(const std::filesystem::path& folder, const std::string& file = "options");
/// The same for a case of end_to_end_models.py or architectures.py: all beside model, data and output.
Words options_of(const std::string& name);

/// Largest difference relative to the largest number of the reference; NaN and infinity count as infinity.
double relative_difference(const std::vector<double>& numbers, const std::vector<double>& reference);

/// The same of /hessian of two files.
double relative_difference(const std::filesystem::path& file, const std::filesystem::path& reference);

/// All of H, the gradient and the loss within the tolerance, and the same parameters in the same places.
void expect_like_reference(const StoredFile& file, const StoredFile& reference, double tolerance);

}  // namespace end_to_end
