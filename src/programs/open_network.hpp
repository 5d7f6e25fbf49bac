#pragma once
/// A matrix that is opened: a file, or a network in its place.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <utility>

#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/products/kept_products.hpp"
#include "hessian_mpi/products/network.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "matrix_options.hpp"

namespace hessian_mpi::programs {

/// A network of the parameters of a file, with the options that it refers to.
struct NetworkBeside {
  NetworkBeside(run::Options of_network, const ranks::Communicator& world)
      : options(std::move(of_network)),
        network(
            options, [] {}, world) {}
  run::Options options;
  products::Network network;
};

/// A whole matrix, and the bytes that a rank's rows may take.
struct OpenedMatrix {
  std::filesystem::path file;
  file::StoredLayout hessian;
  std::uint64_t memory = 0;
  std::unique_ptr<products::Network> network;       ///< where there is one in the file's place
  std::unique_ptr<products::KeptProducts> kept;     ///< its products
  bool replace = false;                             ///< an output that is there
  std::unique_ptr<NetworkBeside> beside = nullptr;  ///< where there is one beside the file
};

/// Collective. Loads a network and says what it is; program: the name, for warnings. between: as products::Network has
/// it. Options and communicator must outlive it.
OpenedMatrix open_network(const char* program, const MatrixOptions& options, std::function<void()> between,
                          const ranks::Communicator& world);

/// Collective. Loads the network beside the file, with the file's options where none are given, and says so. Throws
/// InputError where it is none of the same parameters at the same point.
std::unique_ptr<NetworkBeside> open_beside(const char* program, const MatrixOptions& options,
                                           const file::StoredLayout& hessian, const ranks::Communicator& world);

}  // namespace hessian_mpi::programs
