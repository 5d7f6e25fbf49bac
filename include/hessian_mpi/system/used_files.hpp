#pragma once
/// What the paths that a program is given are: it reads regular files, and replaces none of them. Nothing is opened,
/// since a FIFO would be waited for. Not collective; Linux.

#include <filesystem>
#include <optional>
#include <vector>

namespace hessian_mpi::system {

/// Where symlinks lead, also to what is not there yet: what is to be made or replaced. Throws InputError where they
/// lead round in a circle.
std::filesystem::path target_of(const std::filesystem::path& path);

/// Throws InputError where something else than a regular file lies there, or what does cannot be told. A path without a
/// file is no error.
void expect_regular(const std::filesystem::path& path);

/// The files of a program that are known before it begins.
struct UsedFiles {
  std::vector<std::filesystem::path> inputs;
  std::optional<std::filesystem::path> output = {};
  std::optional<std::filesystem::path> edited = {};  ///< an input that is changed where it lies
};

/// Throws InputError where an input is no regular file. One that is missing is told of where it is read.
void expect_inputs(const UsedFiles& files);

/// Throws InputError where the output is no regular file, has too long a name, or is one of the inputs by whatever
/// name. On the rank that would replace it.
void expect_output(const UsedFiles& files);

}  // namespace hessian_mpi::system
