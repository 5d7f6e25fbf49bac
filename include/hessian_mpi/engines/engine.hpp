#pragma once
/// What makes rows of the Hessian. One engine per way of making them; whoever asks for rows knows only this.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "hessian_mpi/base/vocabulary.hpp"

namespace hessian_mpi::engines {

/// What an engine knows of its passes through the network.
struct Passes {
  double seconds = 0;               ///< of its time so far, as far as it tells them from the rest
  std::optional<double> made = {};  ///< which part of those for all its rows, where these do not come row by row
};

class Engine {
 public:
  virtual ~Engine() = default;

  /// The name that the file records, as `--method` has it.
  virtual std::string name() const = 0;

  /// Rows worth asking for at once, so that what a call costs beside its rows is small.
  virtual std::int64_t rows_at_once() const = 0;

  /// Bytes of memory that a call needs for each row of so many columns, beside the buffer it writes into.
  virtual std::uint64_t bytes_per_row(std::int64_t columns) const = 0;

  /// Not collective. Writes rows.count() x columns.count() numbers of the storage precision to out, row-major, owned by
  /// the caller. A row's numbers do not depend on which other rows and columns are asked for. Calls advance with the
  /// work done since its last call, in rows; over the whole call that adds up to rows.count().
  virtual void compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
                       const std::function<void(double)>& advance) = 0;

  virtual Passes passes() const { return {}; }
};

/// Calls `use` with out as a pointer to float or to double, whichever the storage precision is.
template <class Use>
void with_numbers(Precision storage, void* out, Use use) {
  if (storage == Precision::float32) {
    use(static_cast<float*>(out));
  } else {
    use(static_cast<double*>(out));
  }
}

}  // namespace hessian_mpi::engines
