#pragma once
/// The flat index over all parameters: which row and column of the Hessian is which element of which parameter.
/// This is the order that the file records. Not collective, no dependencies.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace hessian_mpi::matrix {

/// One parameter tensor: it occupies indices offset .. offset + size - 1, in row-major order of its shape.
struct ParameterEntry {
  std::string name;
  std::vector<std::int64_t> shape;
  std::int64_t offset = 0;
  std::int64_t size = 0;
};

/// "[32, 1, 3, 3]"; a scalar is "[]".
std::string text_of_shape(const std::vector<std::int64_t>& shape);

class ParameterIndex {
 public:
  /// An element of a parameter, counted in row-major order.
  struct Location {
    std::size_t parameter = 0;
    std::int64_t element = 0;
  };

  /// Parameters in the order of the matrix.
  void append(std::string name, std::vector<std::int64_t> shape);

  /// N: rows, and columns, of the Hessian.
  std::int64_t size() const { return size_; }
  const std::vector<ParameterEntry>& entries() const { return entries_; }

  /// The parameter that holds an index in [0, size()), which is the caller's promise; empty parameters hold none.
  Location locate(std::int64_t index) const;
  /// "conv1.weight[0, 0, 1, 2]": the element of an index in [0, size()).
  std::string describe(std::int64_t index) const;

 private:
  std::vector<ParameterEntry> entries_;
  std::int64_t size_ = 0;
};

/// True if the name fits one of the shell patterns (*, ?, [...]); a dot is a character like others.
bool matches_any(const std::string& name, const std::vector<std::string>& patterns);

}  // namespace hessian_mpi::matrix
