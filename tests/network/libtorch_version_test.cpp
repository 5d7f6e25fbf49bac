#include "hessian_mpi/network/libtorch_version.hpp"

#include <gtest/gtest.h>

#include "expect_error.hpp"

namespace hessian_mpi::network {
namespace {

TEST(LibTorchVersion, IsThatOfTheHeaders) {
  EXPECT_EQ(libtorch_version(), libtorch_of_build());
  EXPECT_NO_THROW(expect_libtorch_of_build(libtorch_version()));
}

TEST(LibTorchVersion, OfAnotherReleaseIsRefused) {
  const auto release = libtorch_of_build().substr(0, libtorch_of_build().rfind('.'));
  EXPECT_NO_THROW(expect_libtorch_of_build(release + ".9"));
  for (const auto& other : {std::string("1.9.0"), release + "0.0", std::string("2.1.0")})
    expect_input_error([&] { expect_libtorch_of_build(other); },
                       {libtorch_of_build(), other, "build hessian_mpi again"});
}

}  // namespace
}  // namespace hessian_mpi::network
