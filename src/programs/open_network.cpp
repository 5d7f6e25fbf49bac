#include "open_network.hpp"

#include <algorithm>
#include <iostream>
#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/cli/parallel_program.hpp"
#include "hessian_mpi/cli/report_text.hpp"

namespace hessian_mpi::programs {

OpenedMatrix open_network(const char* program, const MatrixOptions& options, std::function<void()> between,
                          const ranks::Communicator& world) {
  auto network = std::make_unique<products::Network>(*options.network, std::move(between), world);
  const auto& matrix = network->layout().matrix;
  const auto warn = [&](const std::string& words) {
    if (world.is_root()) std::cerr << program << ": warning: " << words << std::endl;
  };
  for (const auto& words : network->warnings()) warn(words);
  if (network->batches() < world.size()) {
    warn(text(cli::plural(network->batches(), "batch", "es"), " for ", world.size(),
              " ranks: some of them wait in products with one vector; --batch-size ",
              std::max<std::int64_t>(1, network->samples() / world.size()), " shares the samples"));
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

}  // namespace hessian_mpi::programs
