#include "hessian_mpi/base/checksum.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "expect_error.hpp"
#include "shared_folder.hpp"

namespace hessian_mpi {
namespace {

// The bytes 0, 1, ..., period - 1, 0, 1, ...
std::vector<unsigned char> counting_bytes(std::size_t count, std::size_t period) {
  std::vector<unsigned char> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<unsigned char>(i % period);
  return bytes;
}

std::string sha256_of_bytes(const std::vector<unsigned char>& bytes) {
  const auto world = ranks::Communicator::world();
  const SharedFolder folder(world);
  std::ofstream(folder / "bytes", std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return sha256_of_file(folder / "bytes");
}

// Published values of the upstream library for seed 0. XXH3 has a formula of its own for each range of lengths: 0, 1-3,
// 4-8, 9-16, 17-128, 129-240, and blocks of 1024 bytes beyond. The last of each range, and the first, are here.
TEST(Xxh3, GivesThePublishedValuesInEveryRangeOfLengths) {
  struct Known {
    std::size_t length;
    std::uint64_t checksum;
  };
  for (const auto& known : std::vector<Known>{{0, 0x2d06800538d394c2},
                                              {1, 0xc44bdff4074eecdb},
                                              {3, 0x5f4299fc161c9cbb},
                                              {8, 0x3a1c2d7c85af88f8},
                                              {16, 0x8355e3a6f61770db},
                                              {17, 0x9ef341a99de37328},
                                              {128, 0x85c6174c7ff4c46b},
                                              {129, 0xec7642b431ba3e5a},
                                              {240, 0x375a384d957fe865},
                                              {241, 0x02e8cd95421c6d02},
                                              {2048, 0xdd420471ff96bd00},
                                              {2049, 0x62dff343e7dbac9b}}) {
    const auto bytes = counting_bytes(known.length, 256);
    EXPECT_EQ(xxh3(bytes.data(), bytes.size()), known.checksum) << known.length << " bytes";
  }
}

TEST(Xxh3, GivesThePublishedValueOfText) {
  EXPECT_EQ(xxh3("abc", 3), 0x78af5f94892f3950);
}

TEST(Xxh3, DoesNotDependOnTheAddress) {
  const auto bytes = counting_bytes(5000, 251);
  const auto expected = xxh3(bytes.data(), bytes.size());
  for (std::size_t shift = 1; shift < 9; ++shift) {
    std::vector<unsigned char> shifted(shift);
    shifted.insert(shifted.end(), bytes.begin(), bytes.end());
    EXPECT_EQ(xxh3(shifted.data() + shift, bytes.size()), expected) << "shifted by " << shift;
  }
}

TEST(Xxh3, SeesOneFlippedBitAnywhere) {
  auto bytes = counting_bytes(3000, 256);
  const auto whole = xxh3(bytes.data(), bytes.size());
  for (auto& byte : bytes) {
    byte ^= 0x10;
    EXPECT_NE(xxh3(bytes.data(), bytes.size()), whole) << "byte " << &byte - bytes.data();
    byte ^= 0x10;
  }
}

// Values of FIPS 180-2's examples and of sha256sum.
TEST(Sha256, OfAFileIsWhatSha256sumPrints) {
  EXPECT_EQ(sha256_of_bytes({}), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_of_bytes({'a', 'b', 'c'}), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

// Longer than any buffer that reads it, and no multiple of one.
TEST(Sha256, OfAFileOfMegabytesIsWhatSha256sumPrints) {
  EXPECT_EQ(sha256_of_bytes(counting_bytes((3 << 20) + 17, 251)),
            "fe2aaf82bfa2ffec207a0c6fa7ce7d4af268d67e2672fdaec675f3f9b65d0854");
}

TEST(Sha256, OfAMissingFileIsAnInputErrorThatNamesIt) {
  const auto world = ranks::Communicator::world();
  const SharedFolder folder(world);
  expect_input_error([&] { sha256_of_file(folder / "missing.pt"); }, {(folder / "missing.pt").string(), "opened"});
}

TEST(Sha256, OfAFolderIsAnInputErrorThatNamesIt) {
  const auto world = ranks::Communicator::world();
  const SharedFolder folder(world);
  expect_input_error([&] { sha256_of_file(folder / ""); }, {(folder / "").string()});
}

}  // namespace
}  // namespace hessian_mpi
