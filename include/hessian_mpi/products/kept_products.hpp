#pragma once
/// The products of a run in a file beside its output, so that a run which was ended goes through its steps again and
/// makes none of them twice.

#include <cstdint>
#include <filesystem>
#include <future>
#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/base/worker.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/products/network.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/system/posix_file.hpp"

namespace hessian_mpi::products {

/// Which vectors are the same.
enum class Match {
  bits,     ///< those of the same numbers
  rounding  ///< those that differ in rounding too
};

/// A product is found by its vector, which may differ in rounding: another number of ranks adds up in another order.
/// Instead of the vector the file has a sketch of it (Charikar, Chen, Farach-Colton, Finding Frequent Items in Data
/// Streams, 2002). Every product has a checksum: one that was torn, or is not on the disk, is made again. A product is
/// written while the next ones are made, and brought to the disk once in a minute, meanwhile too. Where writing does
/// not keep up, large ones are left out, as many as take a minute to be made again.
class KeptProducts {
 public:
  /// Collective. Goes on with the file where it is there, else begins it. job: what multiplies. replaces_output: kept
  /// in the file, for those who go on. Throws InputError: of another job, saying what differs; no such file, or cannot
  /// be made.
  KeptProducts(std::filesystem::path path, const file::StoredLayout& job, const Rows& own, bool replaces_output,
               const ranks::Communicator& communicator);

  /// Not collective. Whether the output of the run that began the file is to be replaced.
  static bool replaces_output(const std::filesystem::path& path);

  /// What stands before the numbers of a product.
  struct Head {
    static constexpr std::size_t buckets = 192;
    std::uint64_t sum_of_vector;
    std::uint64_t sum_of_product;
    double squares;  ///< of the vector
    double sketch[buckets];
    std::uint64_t sum;  ///< XXH3 of all before it
  };

  /// Collective. What a vector is known by. own: the numbers of this rank, here and below.
  Head head_of(const double* own) const;
  /// Collective. Reads A times the vector, where that is kept.
  bool find(const Head& vector, Match match, double* product);
  /// Collective. Copies the product, which took that many seconds, and begins to write it. Where it cannot be written,
  /// that and all later ones are not kept: see failure().
  void add(Head head, const double* product, double seconds);
  /// Collective. Returns when all is on the disk, or there is a failure().
  void bring_to_disk();

  /// With the one that is being written.
  std::int64_t count() const { return static_cast<std::int64_t>(heads_.size()); }
  /// How many were added, kept or not.
  std::int64_t made() const { return made_; }
  /// How many of those that are kept earlier runs have made.
  std::int64_t earlier() const { return earlier_; }
  std::uint64_t bytes_of_one() const;
  /// Why nothing more is kept.
  const std::optional<std::string>& failure() const { return failure_; }
  const std::filesystem::path& path() const { return path_; }

  /// Collective. Removes the file. Nothing is to be called afterwards.
  void remove();

 private:
  std::uint64_t place_of(std::int64_t k) const;
  std::uint64_t sum_over_ranks(const double* own) const;
  // On root.
  void open_or_begin(const file::StoredLayout& job, bool replaces_output);
  std::string read_heads() const;
  // On all.
  void take_over(const std::string& heads);
  // Collective. Returns when the last product is written; where it cannot be, it is none of heads_ any more.
  void finish_writing();
  // Collective.
  bool is_left_out(double seconds);

  std::filesystem::path path_;
  std::int64_t n_;
  Rows own_;
  const ranks::Communicator& communicator_;
  std::vector<Head> heads_;
  std::uint64_t begin_ = 0;  // of the first product in the file
  std::int64_t earlier_ = 0;
  std::int64_t made_ = 0;
  double seconds_left_out_ = 0;
  std::optional<system::PosixFile> file_;
  std::optional<std::string> failure_;
  PeriodicTimer sync_;
  std::vector<double> being_written_;
  std::future<void> writing_;
  std::future<void> syncing_;
  Worker writer_;  // these end before what they write
  Worker syncer_;  // of its own, since others are written meanwhile
};

/// Collective. As network.multiply(), but for products that are kept already; keeps the others, some vectors at a time.
void multiply(Network& network, KeptProducts& kept, Match match, const double* own, std::int64_t count,
              double* products);

}  // namespace hessian_mpi::products
