#include "matrix_options.hpp"

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/quantity.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/run/network_options.hpp"
#include "hessian_mpi/system/node.hpp"

namespace hessian_mpi::programs {

system::UsedFiles MatrixOptions::files() const {
  auto used = network ? system::UsedFiles{network->files().inputs, output} : ResultOptions::files();
  if (beside) {
    const auto more = beside->files().inputs;
    used.inputs.insert(used.inputs.end(), more.begin(), more.end());
  }
  if (plan) used.output.reset();
  return used;
}

void expect_room_for_result(const MatrixOptions& options, const ranks::Communicator& world) {
  if (options.plan) return;
  world.on_root([&] { file::check_room_for(options.output, 0, options.overwrite); });
}

std::uint64_t memory_of_rank(const ranks::Communicator& world) {
  return system::available_memory() / static_cast<std::uint64_t>(world.ranks_on_node());
}

void expect_memory(std::uint64_t bytes, const char* other_ways, const ranks::Communicator& world) {
  const auto there = memory_of_rank(world);
  world.together([&] {
    if (bytes <= there) return;
    throw InputError(text("a rank needs ", text_of_bytes(bytes), " and its node has ", text_of_bytes(there),
                          " for each of its ranks: use more nodes, or ", other_ways));
  });
}

void take_matrix_options(const std::string& program, const char* kind, int argc, const char* const* argv,
                         const boost::program_options::variables_map& given, const std::set<std::string>& but_for,
                         MatrixOptions& options) {
  const bool asks = given["help"].as<bool>() || given["version"].as<bool>();
  if (asks) return after::take_result_options(program, kind, argc, argv, given, options);
  const bool is_beside = !after::files_of(given).empty();
  auto& network = is_beside ? options.beside : options.network;
  network = run::take_network_options(given, but_for);
  if (network && is_beside) options.given_beside = run::given_network_options(given);
  if (options.network) options.file = *options.network->model;
  after::take_result_options(program, kind, argc, argv, given, options);
  if (!network) return;
  if (has_rows_of_samples(network->matrix)) {
    throw InputError(text("--matrix ", name_of(network->matrix),
                          " has rows of samples: what is multiplied here is N x N, hessian, ggn or fisher"));
  }
  network->threads = options.threads;
  network->memory = options.memory;
  network->command_line = options.command_line;
}

void refuse_beside(const MatrixOptions& options) {
  if (!options.beside) return;
  throw InputError(text("'", options.file.string(), "' and '", options.beside->model->string(),
                        "': name a file of hessian_mpi or a network, not both"));
}

}  // namespace hessian_mpi::programs
