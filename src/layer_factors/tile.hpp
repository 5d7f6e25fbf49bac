#pragma once
/// Products of small factors, written where the matrix wants them. Not a library's product of matrices: MKL adds in an
/// order that depends on how many rows are asked for at once, and a row must not. Here each number is one sum over k,
/// from the first to the last, whatever is computed beside it. Internal to the factored engine.

#include <cstdint>
#include <vector>

namespace hessian_mpi {

/// A matrix [inner, columns] in strips of 64 bytes of columns, each strip one piece of memory.
template <class Number>
class Strips {
 public:
  static constexpr std::int64_t width = 64 / static_cast<std::int64_t>(sizeof(Number));

  Strips() = default;
  Strips(std::int64_t inner, std::int64_t columns) { resize(inner, columns); }
  void resize(std::int64_t inner, std::int64_t columns) {
    inner_ = inner;
    columns_ = columns;
    numbers_.resize(static_cast<std::size_t>((columns + width - 1) / width * width * inner));
  }
  std::int64_t inner() const { return inner_; }
  std::int64_t columns() const { return columns_; }
  const Number* strip(std::int64_t s) const { return numbers_.data() + s * inner_ * width; }
  Number* at(std::int64_t k, std::int64_t column) {
    return numbers_.data() + (column / width * inner_ + k) * width + column % width;
  }

 private:
  std::int64_t inner_ = 0;
  std::int64_t columns_ = 0;
  std::vector<Number> numbers_;
};

/// out[i * out_stride + j] = sum over k of left[k * left_stride + i] * right(k, j), for i < rows and j <
/// right.columns().
template <class Number, class Out>
void multiply(const Number* left, std::int64_t left_stride, std::int64_t rows, const Strips<Number>& right, Out* out,
              std::int64_t out_stride);

/// out[i] = sum over k of left[k * left_stride + i], for i < rows.
template <class Number, class Out>
void add_up(const Number* left, std::int64_t left_stride, std::int64_t rows, std::int64_t inner, Out* out);

/// out[i] = s * a[i] + t * b[i], for i < count; without b: s * a[i].
template <class Number>
void combine(std::int64_t count, Number s, const Number* a, Number t, const Number* b, Number* out);

/// out[i] += s * a[i], for i < count.
template <class Number>
void accumulate(std::int64_t count, Number s, const Number* a, Number* out);

/// The same as combine(), into row k of strips from a column on.
template <class Number>
void combine(std::int64_t count, Number s, const Number* a, Number t, const Number* b, Strips<Number>& out,
             std::int64_t k, std::int64_t column);

}  // namespace hessian_mpi
