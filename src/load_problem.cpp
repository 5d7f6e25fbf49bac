#include "hessian_mpi/load_problem.hpp"

#include <utility>

#include "hessian_mpi/data.hpp"
#include "hessian_mpi/example.hpp"
#include "hessian_mpi/model.hpp"

namespace hessian_mpi {

Problem load_problem(const Options& options, std::optional<Precision> precision, torch::Device device) {
  const ProblemSettings settings{
      options.loss,       options.reduction, options.mode,         options.batch_size, precision,
      options.parameters, options.seed,      options.loss_options, options.l2,         device};
  if (options.model) return {load_model(*options.model), load_data(*options.data), settings};
  auto example = make_example(options.seed);
  return {std::move(example.model), example.data, settings};
}

}  // namespace hessian_mpi
