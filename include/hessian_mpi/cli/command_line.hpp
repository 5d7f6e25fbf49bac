#pragma once
/// Command lines as text: for files, which say how they were made, and for people, who are told what to type next. No
/// dependencies.

#include <optional>
#include <string>

namespace hessian_mpi::cli {

/// The arguments as one line that a shell reads as it was typed.
std::string command_line_of(int argc, const char* const* argv);

/// The options of a command line, without --plan, each with a space before it. of_config: what stands in the place of
/// --config, where that says to plan.
std::string options_of_job(const std::string& command_line, const std::optional<std::string>& of_config = {});

/// The command line that goes on with a job begun by this one.
std::string command_line_to_resume(const std::string& command_line);

/// The command line that goes on with a file of all rows, of which this one has made a part.
std::string command_line_for_whole(const std::string& command_line_of_part, const std::string& file);

}  // namespace hessian_mpi::cli
