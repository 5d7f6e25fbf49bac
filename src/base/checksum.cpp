#include "hessian_mpi/base/checksum.hpp"

#include <openssl/evp.h>

#include <array>
#include <fstream>
#include <iomanip>
#include <memory>
#include <sstream>
#include <vector>

#ifdef HESSIAN_MPI_XXHASH_DISPATCHES
#include <xxh_x86dispatch.h>  // the vector instructions of the processor that it runs on
#else
#define XXH_INLINE_ALL  // those that every processor of this kind has
#include <xxhash.h>
#endif

#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi {

std::uint64_t xxh3(const void* bytes, std::size_t count) {
  return XXH3_64bits(bytes, count);
}

std::string sha256_of_file(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw InputError(text("'", file.string(), "' cannot be opened"));
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  bool good = context != nullptr && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1;
  std::vector<char> buffer(1 << 20);
  while (good && in) {
    in.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    good = EVP_DigestUpdate(context.get(), buffer.data(), static_cast<std::size_t>(in.gcount())) == 1;
  }
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned length = 0;
  if (!good || in.bad() || EVP_DigestFinal_ex(context.get(), digest.data(), &length) != 1) {
    throw InputError(text("'", file.string(), "' cannot be read to its end"));
  }
  std::ostringstream hexadecimal;
  hexadecimal << std::hex << std::setfill('0');
  for (unsigned i = 0; i < length; ++i) hexadecimal << std::setw(2) << static_cast<unsigned>(digest[i]);
  return hexadecimal.str();
}

}  // namespace hessian_mpi
