#include "open_network.hpp"

#include <algorithm>
#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/cli/parallel_program.hpp"
#include "hessian_mpi/cli/report_text.hpp"
#include "hessian_mpi/file/same_job.hpp"
#include "hessian_mpi/run/network_options.hpp"

namespace hessian_mpi::programs {

OpenedMatrix open_network(const char* program, const MatrixOptions& options, std::function<void()> between,
                          const ranks::Communicator& world) {
  auto network = std::make_unique<products::Network>(*options.network, std::move(between), world);
  const auto& matrix = network->layout().matrix;
  for (const auto& words : network->warnings()) cli::warn(program, words, world);
  if (network->batches() < world.size()) {
    cli::warn(program,
              text(cli::plural(network->batches(), "batch", "es"), " for ", world.size(),
                   " ranks: some of them wait in products with one vector; --batch-size ",
                   std::max<std::int64_t>(1, network->samples() / world.size()), " shares the samples"),
              world);
  }
  cli::say(world, "matrix",
           text(name_of(options.network->matrix), " of ", options.file.string(), ": ", matrix.columns, " x ",
                matrix.columns, ", products in ", name_of(matrix.storage), ", ",
                cli::plural(network->samples(), "sample"), " in ", cli::plural(network->batches(), "batch", "es"),
                " on ", cli::plural(world.size(), "rank"), ", ", cli::plural(network->threads(), "thread"), " each"));
  cli::say(world, "checked", text("a product against differences: ", cli::text_of_check(network->check())));
  cli::say(world, "product",
           text("about ", cli::text_of_number(network->seconds_of_product(), 3), " s with one vector"));
  auto layout = network->layout();
  return {options.file, std::move(layout), 0, std::move(network), nullptr, options.overwrite};
}

std::unique_ptr<NetworkBeside> open_beside(const char* program, const MatrixOptions& options,
                                           const file::StoredLayout& hessian, const ranks::Communicator& world) {
  auto of_network = *options.beside;
  world.together([&] { run::take_options_of_file(hessian.attributes, options.given_beside, of_network); });
  auto beside = std::make_unique<NetworkBeside>(std::move(of_network), world);
  const auto& network = beside->network;
  const auto model = options.beside->model->string();
  const auto comparison =
      file::compare_points(hessian.layout(), network.layout().layout(), {"in the file", "of the network"});
  world.together([&] {
    if (comparison.differences.empty()) return;
    throw InputError(text("'", options.file.string(), "' is not of the network in '", model,
                          "' at this point: ", joined(comparison.differences, "; "),
                          ". Give the network, data and options that the file was made with"));
  });
  for (const auto& words : network.warnings()) cli::warn(program, words, world);
  const auto* loss = file::find_attribute<double>(network.layout().attributes, "loss_value");
  cli::say(
      world, "network",
      text(model, ": the file's parameters, ", cli::plural(network.samples(), "sample"), " in ",
           cli::plural(network.batches(), "batch", "es"), ", loss ", *loss, " in ", name_of(network.layout().dtype)));
  return beside;
}

}  // namespace hessian_mpi::programs
