#pragma once
/// The embedded example, so that the program shows what it does before anyone has exported anything: the network and
/// batch of the question that started the project (N = 23,365).

#include <cstdint>
#include <memory>

#include "hessian_mpi/network/data.hpp"
#include "hessian_mpi/network/model.hpp"

namespace hessian_mpi::network {

struct Example {
  std::unique_ptr<Model> model;
  Data data;
};

/// Conv2d(1, 32, 3, 1, 1) -> view(B, -1) -> Linear(32 * 12 * 12, 5) for x [8, 1, 12, 12] and y in [0, 5). The numbers
/// are those that Python draws after torch.manual_seed(seed): the layers' own initialisation in this order, then
/// torch.randn(8, 1, 12, 12), then torch.randint(0, 5, (8,)).
Example make_example(std::uint64_t seed);

}  // namespace hessian_mpi::network
