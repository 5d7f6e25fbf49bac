#pragma once
/// Products of small factors, written where the matrix wants them. Not a library's product of matrices: MKL adds in an
/// order that depends on how many rows are asked for at once, and a row must not. Here each number is one sum over k,
/// from the first to the last, whatever is computed beside it. Internal to the factored engine.

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"

namespace hessian_mpi::engines {

/// The right factor of a product, [inner, columns], where it lies: in pieces of 64 bytes of columns, which may be read
/// whole also where there are fewer columns left.
template <class Number>
struct RightFactor {
  const Number* begin = nullptr;
  std::int64_t row_step = 0;    ///< from one k to the next
  std::int64_t piece_step = 0;  ///< from one piece to the next
  std::int64_t inner = 0;
  std::int64_t columns = 0;
};

/// Where combinations of rows are written: in the strips of a right factor, so many neighbours of them.
template <class Number>
struct CombinedRows {
  Number* begin = nullptr;
  std::int64_t row_step = 0;        ///< from one row to the next
  std::int64_t piece_step = 0;      ///< from 64 bytes of a row to the next 64
  std::int64_t neighbours = 1;      ///< combinations of the same rows, whose scales are neighbours
  std::int64_t neighbour_step = 0;  ///< from one of them to the next
};

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
    numbers_.resize(static_cast<std::size_t>((columns + width - 1) / width * strip_step()));
  }
  std::int64_t inner() const { return inner_; }
  std::int64_t columns() const { return columns_; }
  /// From one strip to the next. One line more than it has: else all strips would share the same lines of a cache.
  std::int64_t strip_step() const { return (inner_ + 1) * width; }
  Number* at(std::int64_t k, std::int64_t column) {
    return numbers_.data() + column / width * strip_step() + k * width + column % width;
  }
  /// To write its rows from a column on; those of a neighbour so many columns after, whole strips of them.
  CombinedRows<Number> rows(std::int64_t column, std::int64_t neighbours = 1, std::int64_t columns_of_neighbour = 0) {
    return {at(0, column), width, strip_step(), neighbours, columns_of_neighbour / width * strip_step()};
  }
  RightFactor<Number> factor() const { return factor({0, inner_}); }
  /// Some of its rows.
  RightFactor<Number> factor(const Rows& rows) const {
    return {numbers_.data() + rows.begin * width, width, strip_step(), rows.count(), columns_};
  }

 private:
  std::int64_t inner_ = 0;
  std::int64_t columns_ = 0;
  std::vector<Number> numbers_;
};

/// Rows that lie one after the other, row_step apart. The last one is followed by 64 bytes that may be read.
template <class Number>
RightFactor<Number> rows_as_factor(const Number* begin, std::int64_t row_step, std::int64_t inner,
                                   std::int64_t columns) {
  return {begin, row_step, Strips<Number>::width, inner, columns};
}

/// left[k * left_stride + i] times right(k, j), to be summed over k.
template <class Number>
struct Product {
  const Number* left = nullptr;
  std::int64_t left_stride = 0;
  RightFactor<Number> right;
};

/// out[i * out_stride + j] = the products, one after the other, summed over k, for i < rows and j < their columns.
template <class Number, class Out>
void multiply(std::span<const Product<Number>> products, std::int64_t rows, Out* out, std::int64_t out_stride);

template <class Number, class Out>
void multiply(const Product<Number>& product, std::int64_t rows, Out* out, std::int64_t out_stride) {
  multiply(std::span(&product, 1), rows, out, out_stride);
}

/// out[i] = sum over k of left[k * left_stride + i], for i < rows.
template <class Number, class Out>
void add_up(const Number* left, std::int64_t left_stride, std::int64_t rows, std::int64_t inner, Out* out);

/// sums[i] += sum over k of factors[0][k * step + i] * factors[1][k * step + i].
template <class Number>
void add_up_products(const std::array<const Number*, 2>& factors, std::int64_t inner, std::int64_t step,
                     std::span<Number> sums);

/// Rows, each times a number of its own: row k is scale[k * scale_step] * row[k * row_step + i].
template <class Number>
struct ScaledRows {
  const Number* scale = nullptr;
  std::int64_t scale_step = 0;
  const Number* row = nullptr;
  std::int64_t row_step = 0;
};

/// Row k of a, and where there is one of b, at i, for k < rows and i < count; of neighbour n times scale[n + k *
/// scale_step].
template <class Number>
void combine(std::int64_t rows, std::int64_t count, const ScaledRows<Number>& a, const ScaledRows<Number>& b,
             const CombinedRows<Number>& out);

/// out[i] += s * a[i], for i < count.
template <class Number>
void accumulate(std::int64_t count, Number s, const Number* a, Number* out);

/// out[i] = numbers[places[i]], or 0 where the place is negative, for i < count.
template <class Number>
void gather(const Number* numbers, const std::int64_t* places, std::int64_t count, Number* out);

/// to[j * to_step + i] = from[i * from_step + j], for i < rows and j < columns.
template <class Number>
void transpose(const Number* from, std::int64_t from_step, std::int64_t rows, std::int64_t columns, Number* to,
               std::int64_t to_step);

/// s * a[i] + t * b[i], for i < count, into row k of strips from a column on; without b: s * a[i].
template <class Number>
void combine(std::int64_t count, Number s, const Number* a, Number t, const Number* b, Strips<Number>& out,
             std::int64_t k, std::int64_t column);

/// Numbers [inner, columns], from one row of them to the next so many, as strips.
template <class Number>
void fill_strips(const Number* numbers, std::int64_t row_step, std::int64_t inner, std::int64_t columns,
                 Strips<Number>& strips) {
  strips.resize(inner, columns);
  for (std::int64_t k = 0; k < inner; ++k) {
    combine<Number>(columns, 1, numbers + k * row_step, 0, nullptr, strips, k, 0);
  }
}

}  // namespace hessian_mpi::engines
