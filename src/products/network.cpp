#include "hessian_mpi/products/network.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/network/kernels.hpp"
#include "hessian_mpi/products/network_product.hpp"
#include "hessian_mpi/products/product_check.hpp"
#include "hessian_mpi/ranks/resources.hpp"
#include "hessian_mpi/run/device_of_rank.hpp"
#include "hessian_mpi/run/load_problem.hpp"
#include "hessian_mpi/run/provenance.hpp"
#include "hessian_mpi/system/node.hpp"

namespace hessian_mpi::products {
namespace {

void expect_finite(const network::LossAndGradient& point, const matrix::ParameterIndex& index) {
  const auto wrong =
      std::find_if(point.gradient.begin(), point.gradient.end(), [](double g) { return !std::isfinite(g); });
  if (wrong == point.gradient.end()) return;
  throw InputError(text("the gradient is not finite at ", index.describe(wrong - point.gradient.begin()),
                        ": there is no Hessian at this point"));
}

// Collective. Once it is sure that all ranks are about to read the same.
ranks::Resources checked_resources(const run::Options& options, const ranks::Communicator& world) {
  run::expect_same_inputs(options, world);
  return ranks::resources_of_rank(options.threads, options.memory, world);
}

}  // namespace

struct Network::State {
  State(const run::Options& given, std::function<void()> called_between, const ranks::Communicator& world)
      : options(given),
        between(std::move(called_between)),
        communicator(world),
        resources(checked_resources(given, world)),
        device(run::device_of_rank(given.device, world)),
        kernels(device, resources.threads),
        problem(world.together([&] { return run::load_problem(given, given.dtype, device); })),
        product(problem, resources.memory, world) {}

  // Collective.
  void examine() {
    if (!resources.warning.empty()) warnings.push_back(resources.warning);
    network::use_fast_convolutions(problem);
    const auto cures = communicator.together([&] { return network::probe_second_derivatives(problem); });
    warnings.insert(warnings.end(), cures.begin(), cures.end());
    auto point = evaluate(problem, between, communicator);
    communicator.together([&] { expect_finite(point, problem.index()); });
    check(point);
    communicator.together([&] {
      layout.index = problem.index();
      layout.matrix = matrix::matrix_of(problem.index(), problem.precision(), Entries::all);
      layout.dtype = problem.precision();
      layout.value = problem.flat_parameters();
      layout.attributes =
          run::initial_attributes(options, problem, {"products", "", Precision::float64, joined(cures, "\n")},
                                  point.loss, communicator.size(), resources.threads);
      layout.gradient = std::move(point.gradient);
      set_check();
    });
  }

  // Collective.
  void check(const network::LossAndGradient& point) {
    checked = check_product(product, problem, point, run::twins_of(options, device), between, communicator);
    if (!checked.warning.empty()) warnings.push_back(checked.warning);
    if (checked.figure.outcome != file::CheckOutcome::failed) return;
    throw ranks::AgreedError(
        ExitCode::failed, text("a product with the network is not what differences say: error ", checked.figure.error,
                               " is above ", checked.figure.tolerance,
                               "; an operation has a wrong second derivative, a part is cut off the graph (detach, "
                               "no_grad, padding_idx of an embedding), or float32 "
                               "is too coarse here (try --dtype float64)"));
  }

  // What a file of the matrix would say of the check.
  void set_check() {
    for (auto& [name, value] : layout.attributes) {
      if (name == "difference_error") value = checked.figure.error;
      if (name == "difference_tolerance") value = checked.figure.tolerance;
      if (name == "difference_check") value = std::string(file::name_of(checked.figure.outcome));
    }
  }

  void move_to(const std::vector<double>& theta) {
    product.forget_graphs();
    problem.set_parameters(theta);
  }

  // Collective. NaN where the network has none there.
  double loss_at(const std::vector<double>& theta) {
    move_to(theta);
    try {
      return evaluate(problem, between, communicator).loss;
    } catch (const ranks::AgreedError& error) {
      if (error.code() != ExitCode::bad_input) throw;
      return std::numeric_limits<double>::quiet_NaN();
    }
  }

  const run::Options& options;
  std::function<void()> between;
  const ranks::Communicator& communicator;
  ranks::Resources resources;
  c10::Device device;
  network::DifferentiableKernels kernels;
  network::Problem problem;
  NetworkProduct product;
  ProductCheck checked;
  file::StoredLayout layout;
  std::vector<std::string> warnings;
};

Network::Network(const run::Options& options, std::function<void()> between, const ranks::Communicator& communicator)
    : state_(std::make_unique<State>(options, std::move(between), communicator)) {
  system::keep_freed_memory();
  state_->examine();
}

Network::~Network() = default;

const file::StoredLayout& Network::layout() const {
  return state_->layout;
}

std::int64_t Network::batches() const {
  return state_->problem.batches();
}

std::int64_t Network::samples() const {
  return state_->problem.samples();
}

int Network::threads() const {
  return state_->resources.threads;
}

const file::CheckFigure& Network::check() const {
  return state_->checked.figure;
}

double Network::epsilon() const {
  return state_->checked.epsilon;
}

double Network::seconds_of_product() const {
  return state_->checked.seconds;
}

const std::vector<std::string>& Network::warnings() const {
  return state_->warnings;
}

const Rows& Network::own() const {
  return state_->product.own();
}

std::int64_t Network::vectors_at_once() const {
  return state_->product.vectors_at_once();
}

void Network::multiply(const double* own, std::int64_t count, double* products) {
  state_->product.multiply(own, count, products, state_->between);
}

std::vector<double> Network::losses_along(const std::vector<double>& step, const std::vector<double>& multiples) {
  const auto& theta = state_->layout.value;
  std::vector<double> losses;
  for (const double t : multiples) {
    auto moved = theta;
    for (std::size_t k = 0; k < moved.size(); ++k) moved[k] += t * step[k];
    losses.push_back(state_->loss_at(moved));
  }
  state_->move_to(theta);
  return losses;
}

}  // namespace hessian_mpi::products
