#pragma once
/// A matrix that is opened: a file, or a network in its place.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>

#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/products/kept_products.hpp"
#include "hessian_mpi/products/network.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "matrix_options.hpp"

namespace hessian_mpi::programs {

/// A whole matrix, and the bytes that a rank's rows may take.
struct OpenedMatrix {
  std::filesystem::path file;
  file::StoredLayout hessian;
  std::uint64_t memory = 0;
  std::unique_ptr<products::Network> network;    ///< where there is one in the file's place
  std::unique_ptr<products::KeptProducts> kept;  ///< its products
  bool replace = false;                          ///< an output that is there
};

/// Collective. Loads a network and says what it is; program: the name, for warnings. between: as products::Network has
/// it. Options and communicator must outlive it.
OpenedMatrix open_network(const char* program, const MatrixOptions& options, std::function<void()> between,
                          const ranks::Communicator& world);

}  // namespace hessian_mpi::programs
