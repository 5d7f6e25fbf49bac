#include "hessian_mpi/run/provenance.hpp"

#include <limits>
#include <optional>

#include "hessian_mpi/base/checksum.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/cli/version.hpp"
#include "hessian_mpi/network/device.hpp"
#include "hessian_mpi/network/kernels.hpp"

namespace hessian_mpi::run {
namespace {

constexpr const char* example_name = "embedded example";

std::string name_of_file(const std::optional<std::filesystem::path>& file) {
  return file ? file->string() : example_name;
}

// Empty for the embedded example, whose numbers follow from the seed.
std::string digest_of(const std::optional<std::filesystem::path>& file) {
  return file ? sha256_of_file(*file) : "";
}

// Of a scripted loss; empty for one that the program knows by name.
std::string digest_of_loss(const std::string& loss) {
  return std::filesystem::is_regular_file(loss) ? sha256_of_file(loss) : "";
}

// NAME_error, NAME_tolerance and NAME_check for each check.
void append_checks(const file::CheckFigures& figures, file::Attributes& attributes) {
  for (const auto& [name, figure] : file::named_figures) {
    const auto& check = figures.*figure;
    attributes.emplace_back(text(name, "_error"), check.error);
    attributes.emplace_back(text(name, "_tolerance"), check.tolerance);
    attributes.emplace_back(text(name, "_check"), std::string(name_of(check.outcome)));
  }
}

}  // namespace

file::Attributes initial_attributes(const Options& options, const network::Problem& problem, const MethodOfRows& method,
                                    double loss, int ranks, int threads) {
  const auto v = cli::versions();
  const double unknown = std::numeric_limits<double>::quiet_NaN();
  file::Attributes attributes{
      {"loss_value", loss},
      {"model", name_of_file(options.model)},
      {"model_format", problem.model_format()},
      {"model_sha256", digest_of(options.model)},
      {"data", name_of_file(options.data)},
      {"data_sha256", digest_of(options.data)},
      {"samples", problem.samples()},
      {"batch_size", problem.batch_size()},
      {"loss", options.loss},
      {"loss_sha256", digest_of_loss(options.loss)},
      {"loss_options", problem.loss_options()},
      {"l2", problem.l2()},
      {"reduction", std::string(name_of(options.reduction))},
      {"mode", std::string(name_of(options.mode))},
      {"parameters", joined(options.parameters, " ")},
      {"seed", static_cast<std::int64_t>(options.seed)},
      {"dtype", std::string(name_of(problem.precision()))},
      {"device", std::string(network::name_of(problem.device()))},
      {"matrix", std::string(name_of(options.matrix))},
      {"entries", std::string(name_of(options.entries))},
      {"method", method.method},
      {"parameter_methods", method.of_parameters},
      {"accumulate", std::string(name_of(method.accumulate))},
      {"cures", method.cures},
      {"ranks", std::int64_t{ranks}},
      {"threads", std::int64_t{threads}},
      {"command_line", options.command_line},
      {"created", cli::timestamp()},
      {"finished", std::string()},
      {"wall_seconds", unknown},
      {"blocks_resumed", std::int64_t{0}},
      {"hessian_mpi_version", v.hessian_mpi},
      {"libtorch_version", network::libtorch_version()},
      {"mpi_version", v.mpi},
      {"hdf5_version", v.hdf5},
  };
  append_checks({}, attributes);
  return attributes;
}

file::Attributes final_attributes(const file::CheckFigures& figures, const FinishingRun& run) {
  file::Attributes attributes{{"ranks", std::int64_t{run.ranks}},
                              {"command_line", run.command_line},
                              {"blocks_resumed", run.blocks_resumed},
                              {"wall_seconds", run.wall_seconds},
                              {"finished", cli::timestamp()}};
  append_checks(figures, attributes);
  return attributes;
}

}  // namespace hessian_mpi::run
