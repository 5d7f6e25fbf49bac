#include "hessian_mpi/network/libtorch_version.hpp"

#include <ATen/Version.h>
#include <torch/version.h>

#include <regex>

#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi::network {

// The only place where the library, not a header, says it.
std::string libtorch_version() {
  const auto settings = at::show_config();
  std::smatch version;
  return std::regex_search(settings, version, std::regex("TORCH_VERSION=([0-9.]+)")) ? version[1].str()
                                                                                     : libtorch_of_build();
}

std::string libtorch_of_build() {
  return TORCH_VERSION;
}

void expect_libtorch_of_build(const std::string& loaded) {
  const auto release = text(TORCH_VERSION_MAJOR, '.', TORCH_VERSION_MINOR, '.');
  if (loaded.starts_with(release)) return;
  throw InputError(text("built with LibTorch ", libtorch_of_build(), ", and LibTorch ", loaded,
                        " is in its place now: build hessian_mpi again, or go back to that version; hessian_mpi "
                        "--version --verbose says where it is"));
}

}  // namespace hessian_mpi::network
