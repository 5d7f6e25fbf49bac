// Passes over a finished file beside plain reads of the same bytes, on all ranks at once.
//   mpirun -n 2 build/tests/benchmark/reading_benchmark hessian.h5 [cold]
// cold: the page cache lets go of the file before each pass.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "hessian_mpi/after/matrix_product.hpp"
#include "hessian_mpi/base/checksum.hpp"
#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/file/row_stream.hpp"
#include "hessian_mpi/hdf5/hdf5.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace {

using namespace hessian_mpi;

constexpr int rounds = 9;

// This rank's rows by one read after the other into one buffer: what there is to be had.
void read_plainly(const std::filesystem::path& path, const matrix::MatrixShape& matrix, const Rows& own) {
  const system::PosixFile file(path, O_RDONLY);
  const auto begin = hdf5::File::open_to_read(path).offset_in_file("/hessian");
  const auto end = begin + static_cast<std::uint64_t>(own.end * matrix.bytes_of_row());
  std::vector<char> buffer(4 << 20);
  for (auto at = begin + static_cast<std::uint64_t>(own.begin * matrix.bytes_of_row()); at < end;) {
    const auto count = file.read_some(at, buffer.data(), std::min(buffer.size(), end - at));
    if (count == 0) return;
    at += count;
  }
}

void let_go(const std::filesystem::path& path) {
  const system::PosixFile file(path, O_RDONLY);
  posix_fadvise(file.descriptor(), 0, 0, POSIX_FADV_DONTNEED);
}

struct Pass {
  std::string name;
  std::function<void()> run;
  std::vector<double> seconds;
};

// Beside other programs of the machine, the least that a pass takes is what it needs.
double best(const std::vector<double>& seconds) {
  return *std::min_element(seconds.begin(), seconds.end());
}

void time_in_turn(std::vector<Pass>& passes, const std::filesystem::path& path, bool cold,
                  const ranks::Communicator& world) {
  for (int round = cold ? 0 : -1; round < rounds; ++round) {
    for (auto& pass : passes) {
      if (cold) world.on_root([&] { let_go(path); });
      world.wait_for_all();
      Stopwatch watch;
      pass.run();
      const double seconds = world.max(watch.seconds());
      if (round >= 0) pass.seconds.push_back(seconds);
    }
  }
}

void run(const std::filesystem::path& path, bool cold, const ranks::Communicator& world) {
  const auto stored = file::read_layout(path);
  const auto& matrix = stored.matrix;
  const auto own = file::rows_of_rank(matrix, world.rank(), world.size());
  file::RowStream stream(path, matrix, file::slabs_of(own, matrix));
  after::MatrixProduct product(path, matrix, own);
  after::MatrixSums sums(stored.index);
  const std::vector<double> vectors(static_cast<std::size_t>(4 * matrix.columns), 0.5);
  std::uint64_t kept = 0;
  std::vector<Pass> passes{
      {"plain reads", [&] { read_plainly(path, matrix, own); }, {}},
      {"rows in slabs", [&] { stream.each([](const file::Slab&) {}); }, {}},
      {"checksums", [&] { stream.each([&](const file::Slab& slab) { kept += xxh3(slab.bytes, slab.size()); }); }, {}},
      {"norms and trace", [&] { stream.each([&](const file::Slab& slab) { sums.add(slab); }); }, {}},
      {"H times 1 vector", [&] { product.times(vectors, 1); }, {}},
      {"H times 4 vectors", [&] { product.times(vectors, 4); }, {}},
      {"4 vectors and norms", [&] { product.times(vectors, 4, sums); }, {}},
  };
  time_in_turn(passes, path, cold, world);
  if (!world.is_root()) return;
  const double plain = best(passes.front().seconds);
  std::printf("%d ranks, %.2f GB, %s, best of %d:\n", world.size(), static_cast<double>(matrix.bytes()) / 1e9,
              cold ? "from the disk" : "in the page cache", rounds);
  for (const auto& pass : passes) {
    const double seconds = best(pass.seconds);
    std::printf("  %-20s %7.3f s  %6.2f GB/s  %4.0f %%\n", pass.name.c_str(), seconds,
                static_cast<double>(matrix.bytes()) / 1e9 / seconds, 100 * plain / seconds);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const ranks::MpiSession mpi(argc, argv);
  const auto world = ranks::Communicator::world();
  if (argc < 2) return 2;
  run(argv[1], argc > 2 && std::string(argv[2]) == "cold", world);
  return 0;
}
