#pragma once
/// The words that a user chooses from and that every module understands. No dependencies.

#include <cstddef>
#include <cstdint>

namespace hessian_mpi {

/// The mode a module is put in: what BatchNorm, dropout and the like look at.
enum class Mode { eval, train };

/// How the terms of the loss are joined, over the WHOLE data set whatever the batch size.
enum class Reduction { mean, sum };

/// A floating-point type of parameters, derivatives or stored numbers.
enum class Precision { float32, float64 };

/// How rows are made: by double-backward, factored by layer, or whichever takes fewer operations.
enum class Method { automatic, rows, layers };

/// The matrix that is made: the Hessian, the generalised Gauss-Newton matrix (its part without second derivatives of
/// the network), the empirical Fisher matrix (gradients of samples times themselves); or first derivatives, with rows
/// that are no parameters: of each sample's outputs, and of each sample's loss.
enum class Matrix { hessian, ggn, fisher, jacobian, gradients };

/// Whether rows are samples, or outputs of samples, and not parameters.
constexpr bool has_rows_of_samples(Matrix matrix) {
  return matrix == Matrix::jacobian || matrix == Matrix::gradients;
}

/// Which entries of the matrix are made: all, the diagonal block of each parameter tensor, or the diagonal alone. Or
/// all of a matrix that has rows of samples.
enum class Entries { all, diagonal_blocks, diagonal, of_samples };

/// Where rows are computed.
enum class DeviceChoice { automatic, cpu, cuda };

/// Which blocks are read back from the file and compared with their checksums.
enum class Verify { none, sample, all };

/// How progress is shown on rank 0.
enum class ProgressStyle { automatic, bar, plain, none };

/// Bytes of one number.
constexpr std::size_t bytes_of(Precision precision) {
  return precision == Precision::float32 ? 4 : 8;
}

/// The name as users write it: "float32" or "float64".
constexpr const char* name_of(Precision precision) {
  return precision == Precision::float32 ? "float32" : "float64";
}
constexpr const char* name_of(Mode mode) {
  return mode == Mode::eval ? "eval" : "train";
}
constexpr const char* name_of(Reduction reduction) {
  return reduction == Reduction::mean ? "mean" : "sum";
}

constexpr const char* name_of(Matrix matrix) {
  switch (matrix) {
    case Matrix::hessian:
      return "hessian";
    case Matrix::ggn:
      return "ggn";
    case Matrix::fisher:
      return "fisher";
    case Matrix::jacobian:
      return "jacobian";
    case Matrix::gradients:
      return "gradients";
  }
  return "";
}

constexpr const char* name_of(Entries entries) {
  switch (entries) {
    case Entries::all:
    case Entries::of_samples:
      return "all";
    case Entries::diagonal_blocks:
      return "diagonal_blocks";
    case Entries::diagonal:
      return "diagonal";
  }
  return "";
}

/// Rows, or columns, [begin, end) of the Hessian.
struct Rows {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t count() const { return end - begin; }
  friend bool operator==(const Rows&, const Rows&) = default;
};

}  // namespace hessian_mpi
