#pragma once
/// The command line of programs that take a file of a matrix, or a network in its place.

#include <boost/program_options.hpp>
#include <cstdint>
#include <optional>
#include <set>
#include <string>

#include "hessian_mpi/after/tool_options.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/run/options.hpp"

namespace hessian_mpi::programs {

struct MatrixOptions : after::ResultOptions {
  std::optional<run::Options> network;  ///< in the file's place
  std::optional<run::Options> beside;   ///< a network of the same parameters as the file
  std::set<std::string> given_beside;   ///< which options of it are given
  bool resume = false;
  std::optional<double> time_limit;  ///< seconds

  system::UsedFiles files() const;
};

/// Collective. Before anything is computed: throws InputError where the result cannot be made.
void expect_room_for_result(const MatrixOptions& options, const ranks::Communicator& world);

/// A rank's share of its node's memory.
std::uint64_t memory_of_rank(const ranks::Communicator& world);

/// Collective. Throws InputError, which names the other ways, where a node lacks the bytes for each of its ranks.
void expect_memory(std::uint64_t bytes, const char* other_ways, const ranks::Communicator& world);

/// The heading of run::network_options() in --help.
constexpr const char* heading_of_network = "A network in the place of the file: products without the matrix";

/// As after::take_result_options(), which it calls. but_for: as run::network_options() has it. Programs that have no
/// use of a network beside a file refuse it then.
void take_matrix_options(const std::string& program, const char* kind, int argc, const char* const* argv,
                         const boost::program_options::variables_map& given, const std::set<std::string>& but_for,
                         MatrixOptions& options);

/// Throws InputError where there is a network beside the file.
void refuse_beside(const MatrixOptions& options);

}  // namespace hessian_mpi::programs
