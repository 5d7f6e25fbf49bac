#include "hessian_mpi/run/load_problem.hpp"

#include <utility>

#include "hessian_mpi/network/data.hpp"
#include "hessian_mpi/network/example.hpp"
#include "hessian_mpi/network/load_model.hpp"
#include "hessian_mpi/ranks/one_folder.hpp"

namespace hessian_mpi::run {

network::Problem load_problem(const Options& options, std::optional<Precision> precision, torch::Device device) {
  const network::ProblemSettings settings{
      options.loss,       options.reduction, options.mode,         options.batch_size, precision,
      options.parameters, options.seed,      options.loss_options, options.l2,         device,
      options.matrix,     options.whole,     options.inputs,       options.values,     options.keep_casts};
  if (options.model) {
    const bool some_may_be_whole =
        !options.whole.empty() || (network::model_computes(options.loss) && !options.batch_size);
    return {network::load_model(*options.model), network::load_data(*options.data, some_may_be_whole), settings};
  }
  auto example = network::make_example(options.seed);
  return {std::move(example.model), example.data, settings};
}

void expect_same_inputs(const Options& options, const ranks::Communicator& world) {
  ranks::expect_same_contents(options.files().inputs, world);
}

MakeTwin twins_of(const Options& options, torch::Device device) {
  return [options, device](Precision precision, NarrowCasts casts) {
    auto changed = options;
    changed.keep_casts = casts == NarrowCasts::kept;
    return load_problem(changed, precision, device);
  };
}

}  // namespace hessian_mpi::run
