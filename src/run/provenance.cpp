#include "hessian_mpi/run/provenance.hpp"

#include <limits>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/timestamp.hpp"
#include "hessian_mpi/cli/version.hpp"
#include "hessian_mpi/network/libtorch_version.hpp"
#include "hessian_mpi/network/loss_options.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "option_table.hpp"

namespace hessian_mpi::run {
namespace {

// What the user left open, as the run has decided it.
Options decided(Options options, const network::Problem& problem, Precision accumulate, int threads) {
  options.loss = problem.loss_name();
  options.loss_options = {problem.loss_options()};
  options.batch_size = problem.batch_size();
  if (options.inputs) {
    options.inputs->clear();
    for (const auto& entry : problem.index().entries()) options.inputs->push_back(entry.name);
  }
  options.dtype = problem.precision();
  options.accumulate = accumulate;
  options.device = problem.device().is_cpu() ? DeviceChoice::cpu : DeviceChoice::cuda;
  options.threads = threads;
  return options;
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
      {"model_format", problem.model_format()},
      {"samples", problem.samples()},
      {"method", method.method},  // what came of --method
      {"parameter_methods", method.of_parameters},
      {"cures", method.cures},
      {"ranks", std::int64_t{ranks}},
      {"command_line", options.command_line},
      {"created", timestamp()},
      {"finished", std::string()},
      {"wall_seconds", unknown},
      {"blocks_resumed", std::int64_t{0}},
      {"hessian_mpi_version", v.hessian_mpi},
      {"libtorch_version", network::libtorch_version()},
      {"mpi_version", v.mpi},
      {"hdf5_version", v.hdf5},
  };
  const auto of_options = decided(options, problem, method.accumulate, threads);
  for (const auto& option : option_table()) {
    for (const auto& attribute : option.attributes)
      attributes.emplace_back(attribute.name, attribute.value(of_options));
  }
  append_checks({}, attributes);
  return attributes;
}

file::Attributes attributes_of_inputs(const Options& options) {
  file::Attributes attributes{{"loss_options", network::text_of_loss_options(options.loss_options)}};
  for (const auto& option : option_table()) {
    for (const auto& attribute : option.attributes) {
      if (attribute.name.ends_with("_sha256")) attributes.emplace_back(attribute.name, attribute.value(options));
    }
  }
  return attributes;
}

file::Attributes final_attributes(const file::CheckFigures& figures, const FinishingRun& run) {
  file::Attributes attributes{{"ranks", std::int64_t{run.ranks}},
                              {"command_line", run.command_line},
                              {"blocks_resumed", run.blocks_resumed},
                              {"wall_seconds", run.wall_seconds},
                              {"finished", timestamp()}};
  append_checks(figures, attributes);
  return attributes;
}

}  // namespace hessian_mpi::run
