#include "hessian_mpi/engines/tile.hpp"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "hessian_mpi/base/processors.hpp"

namespace hessian_mpi::engines {
namespace {

// What a processor computes with whose vectors have so many bytes: rows and pieces of columns of a tile whose sums fit
// into the registers.
template <int bytes>
struct Registers {
  static constexpr int vector_bytes = bytes;
  static constexpr int tile_rows = bytes == 64 ? 14 : bytes == 32 ? 6 : 3;
  static constexpr int tile_pieces = bytes == 64 ? 2 : 1;
};

// The sums of the products for some rows and pieces of columns, of which there are so many; rows of out lie at this
// distance from their first.
template <class R, int rows, int pieces, class Number, class Out>
HESSIAN_MPI_INLINE void tile(std::span<const Product<Number>> products, std::int64_t first_row,
                             std::int64_t first_piece, std::int64_t columns, Out* out, std::int64_t out_stride) {
  using Vector = typename VectorOf<R::vector_bytes, Number>::Type;
  using InMemory = typename VectorOf<R::vector_bytes, Number>::InMemory;
  constexpr auto width = pieces * Strips<Number>::width;
  constexpr int of_piece = 64 / R::vector_bytes;
  constexpr int vectors = pieces * of_piece;
  constexpr int lanes = R::vector_bytes / static_cast<int>(sizeof(Number));
  Vector sums[rows][vectors] = {};
  Number finished[rows][width];
  static_assert(sizeof(finished) == sizeof(sums));
  for (const auto& product : products) {
    const Number* left = product.left + first_row;
    const Number* right = product.right.begin + first_piece * product.right.piece_step;
    const auto left_stride = product.left_stride;
    const auto row_step = product.right.row_step;
    const auto piece_step = product.right.piece_step;
    for (std::int64_t k = 0; k < product.right.inner; ++k, left += left_stride, right += row_step) {
      Vector b[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        b[v] = *reinterpret_cast<const InMemory*>(right + v / of_piece * piece_step + v % of_piece * lanes);
      }
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i) {
        const Number a = left[i];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sums[i][v] += a * b[v];
      }
    }
  }
  if constexpr (std::is_same_v<Number, Out>) {
    if (columns == width) {
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) *reinterpret_cast<InMemory*>(out + i * out_stride + v * lanes) = sums[i][v];
      }
      return;
    }
  }
  std::memcpy(finished, sums, sizeof(sums));
  for (int i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) out[i * out_stride + j] = static_cast<Out>(finished[i][j]);
  }
}

// The last rows are fewer than a tile has.
template <class R, int rows, int pieces, class Number, class Out>
HESSIAN_MPI_INLINE void tile_of(std::int64_t wanted, std::span<const Product<Number>> products, std::int64_t first_row,
                                std::int64_t first_piece, std::int64_t columns, Out* out, std::int64_t out_stride) {
  if constexpr (rows > 0) {
    if (wanted >= rows) {
      tile<R, rows, pieces>(products, first_row, first_piece, columns, out, out_stride);
    } else {
      tile_of<R, rows - 1, pieces>(wanted, products, first_row, first_piece, columns, out, out_stride);
    }
  }
}

template <class R, int pieces, class Number, class Out>
HESSIAN_MPI_INLINE void multiply_columns(std::span<const Product<Number>> products, std::int64_t rows,
                                         const Rows& columns, Out* out, std::int64_t out_stride) {
  constexpr auto width = Strips<Number>::width;
  for (std::int64_t i = 0; i < rows; i += R::tile_rows) {
    Out* const to = out + i * out_stride;
    auto j = columns.begin;
    for (; j + (pieces - 1) * width < columns.end; j += pieces * width) {
      const auto here = std::min(pieces * width, columns.end - j);
      tile_of<R, R::tile_rows, pieces>(rows - i, products, i, j / width, here, to + j, out_stride);
    }
    for (; j < columns.end; j += width) {
      const auto here = std::min(width, columns.end - j);
      tile_of<R, R::tile_rows, 1>(rows - i, products, i, j / width, here, to + j, out_stride);
    }
  }
}

// A row reads what it is multiplied with once, and in its order.
template <class R, int pieces, class Number, class Out>
HESSIAN_MPI_INLINE void multiply_row(std::span<const Product<Number>> products, const Rows& columns, Out* out) {
  constexpr auto width = Strips<Number>::width;
  auto j = columns.begin;
  for (; j + (pieces - 1) * width < columns.end; j += pieces * width) {
    const auto here = std::min(pieces * width, columns.end - j);
    tile<R, 1, pieces>(products, 0, j / width, here, out + j, 0);
  }
  if constexpr (pieces > 1) {
    if (j < columns.end) multiply_row<R, pieces - 1>(products, {j, columns.end}, out);
  }
}

// As many columns at a time as stay near the processor while all rows pass by. Short sums are bound by what they write,
// which narrow tiles do faster.
template <class R, class Number, class Out>
HESSIAN_MPI_INLINE void multiply_with(std::span<const Product<Number>> products, std::int64_t rows, Out* out,
                                      std::int64_t out_stride) {
  constexpr std::int64_t bytes_near = 512 << 10;
  constexpr std::int64_t few = 32;
  constexpr auto at_least = R::tile_pieces * Strips<Number>::width;
  constexpr int in_registers = R::vector_bytes > 16 ? 4 : 3;
  if (rows == 1) {
    multiply_row<R, in_registers>(products, {0, products.front().right.columns}, out);
    return;
  }
  std::int64_t inner = 1;
  for (const auto& product : products) inner += product.right.inner;
  const auto fitting = bytes_near / (inner * static_cast<std::int64_t>(sizeof(Number)));
  const auto at_once = std::max<std::int64_t>(1, fitting / at_least) * at_least;
  const auto all_columns = products.front().right.columns;
  for (std::int64_t j = 0; j < all_columns; j += at_once) {
    const Rows columns{j, std::min(all_columns, j + at_once)};
    if (inner < few) {
      multiply_columns<R, 1>(products, rows, columns, out, out_stride);
    } else {
      multiply_columns<R, R::tile_pieces>(products, rows, columns, out, out_stride);
    }
  }
}

// Has a product rounded before it is added: of two that are added, the compiler takes one into its multiply-and-add,
// and which one it takes depends on the code around.
template <class Numbers>
HESSIAN_MPI_INLINE void round(Numbers& product) {
#if defined(__x86_64__) && !defined(__clang__)  // which looks at vectors without the target
  asm("" : "+x"(product));
#elif defined(__aarch64__)
  asm("" : "+w"(product));
#else
  asm("" : "+m"(product));
#endif
}

// s * a[i] + t * b[i], or without b s * a[i].
template <class R, class Number>
HESSIAN_MPI_INLINE void combine_row(std::int64_t count, Number s, const Number* a, Number t, const Number* b,
                                    Number* out) {
  using Vector = typename VectorOf<R::vector_bytes, Number>::Type;
  using InMemory = typename VectorOf<R::vector_bytes, Number>::InMemory;
  constexpr int lanes = R::vector_bytes / static_cast<int>(sizeof(Number));
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    Vector first = s * *reinterpret_cast<const InMemory*>(a + i);
    round(first);
    *reinterpret_cast<InMemory*>(out + i) =
        b == nullptr ? first : first + t * *reinterpret_cast<const InMemory*>(b + i);
  }
  for (; i < count; ++i) {
    Number first = s * a[i];
    round(first);
    out[i] = b == nullptr ? first : first + t * b[i];
  }
}

template <class R, class Number>
HESSIAN_MPI_INLINE void combine_strips_with(std::int64_t count, Number s, const Number* a, Number t, const Number* b,
                                            Strips<Number>& out, std::int64_t k, std::int64_t column) {
  constexpr auto width = Strips<Number>::width;
  const auto before = std::min(count, (width - column % width) % width);
  combine_row<R>(before, s, a, t, b, out.at(k, column));
  std::int64_t i = before;
  if (i >= count) return;
  Number* to = out.at(k, column + i);
  for (; i + width <= count; i += width, to += out.strip_step()) {
    combine_row<R>(width, s, a + i, t, b == nullptr ? nullptr : b + i, to);
  }
  combine_row<R>(count - i, s, a + i, t, b == nullptr ? nullptr : b + i, to);
}

// 64 bytes of a row, which stay in registers for all neighbours.
template <class R, class Number>
HESSIAN_MPI_INLINE void combine_piece(const Number* s, const Number* a, const Number* t, const Number* b, Number* out,
                                      const CombinedRows<Number>& to) {
  using Vector = typename VectorOf<R::vector_bytes, Number>::Type;
  using InMemory = typename VectorOf<R::vector_bytes, Number>::InMemory;
  constexpr int vectors = 64 / R::vector_bytes;
  constexpr int lanes = R::vector_bytes / static_cast<int>(sizeof(Number));
  Vector first[vectors];
  Vector second[vectors] = {};
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) {
    first[v] = *reinterpret_cast<const InMemory*>(a + v * lanes);
    if (b != nullptr) second[v] = *reinterpret_cast<const InMemory*>(b + v * lanes);
  }
  for (std::int64_t n = 0; n < to.neighbours; ++n, out += to.neighbour_step) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      Vector scaled = s[n] * first[v];
      round(scaled);
      *reinterpret_cast<InMemory*>(out + v * lanes) = b == nullptr ? scaled : scaled + t[n] * second[v];
    }
  }
}

template <class R, class Number>
HESSIAN_MPI_INLINE void combine_rows_with(std::int64_t rows, std::int64_t count, const ScaledRows<Number>& a,
                                          const ScaledRows<Number>& b, const CombinedRows<Number>& out) {
  constexpr auto width = Strips<Number>::width;
  const bool both = b.row != nullptr;
  for (std::int64_t k = 0; k < rows; ++k) {
    const Number* const s = a.scale + k * a.scale_step;
    const Number* const t = both ? b.scale + k * b.scale_step : nullptr;
    const Number* first = a.row + k * a.row_step;
    const Number* second = both ? b.row + k * b.row_step : nullptr;
    Number* to = out.begin + k * out.row_step;
    auto left = count;
    for (; left >= width; left -= width, first += width, to += out.piece_step) {
      if (both) {
        combine_piece<R>(s, first, t, second, to, out);
        second += width;
      } else {
        combine_piece<R, Number>(s, first, nullptr, nullptr, to, out);
      }
    }
    for (std::int64_t n = 0; n < out.neighbours && left > 0; ++n) {
      combine_row<R>(left, s[n], first, both ? t[n] : Number{0}, second, to + n * out.neighbour_step);
    }
  }
}

template <class Number>
HESSIAN_MPI_INLINE void accumulate_with(std::int64_t count, Number s, const Number* a, Number* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] += s * a[i];
}

template <class Number>
HESSIAN_MPI_INLINE void gather_with(const Number* numbers, const std::int64_t* places, std::int64_t count,
                                    Number* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = places[i] < 0 ? Number{0} : numbers[places[i]];
}

template <class Number>
HESSIAN_MPI_INLINE void add_up_products_with(const Number* a, const Number* b, std::int64_t inner, std::int64_t step,
                                             std::span<Number> sums) {
  for (std::int64_t k = 0; k < inner; ++k, a += step, b += step) {
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += a[i] * b[i];
  }
}

// Of a square of as many numbers as a vector has that every processor knows: in each round the rows of its upper half
// are interleaved with those of its lower one.
template <class Number>
HESSIAN_MPI_INLINE void transpose_square(const Number* from, std::int64_t from_step, Number* to, std::int64_t to_step) {
  constexpr int bytes = 16;
  constexpr int lanes = bytes / static_cast<int>(sizeof(Number));
  using Vector = typename VectorOf<bytes, Number>::Type;
  using InMemory = typename VectorOf<bytes, Number>::InMemory;
  Vector rows[lanes];
  for (int i = 0; i < lanes; ++i) rows[i] = *reinterpret_cast<const InMemory*>(from + i * from_step);
  for (int n = 1; n < lanes; n *= 2) {
    Vector next[lanes];
    for (int i = 0; i < lanes / 2; ++i) {
      const Vector a = rows[i];
      const Vector b = rows[i + lanes / 2];
      if constexpr (lanes == 4) {
        next[2 * i] = __builtin_shufflevector(a, b, 0, 4, 1, 5);
        next[2 * i + 1] = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      } else {
        next[2 * i] = __builtin_shufflevector(a, b, 0, 2);
        next[2 * i + 1] = __builtin_shufflevector(a, b, 1, 3);
      }
    }
    std::copy_n(next, lanes, rows);
  }
  for (int i = 0; i < lanes; ++i) *reinterpret_cast<InMemory*>(to + i * to_step) = rows[i];
}

// The same functions for each kind of processor.
template <Processor kind>
struct Functions;

// NOLINTBEGIN(bugprone-macro-parentheses): an attribute, and a name
#define HESSIAN_MPI_FUNCTIONS_FOR(kind, bytes, target)                                                              \
  template <>                                                                                                       \
  struct Functions<Processor::kind> {                                                                               \
    template <class Number, class Out>                                                                              \
    target static void multiply(std::span<const Product<Number>> products, std::int64_t rows, Out* out,             \
                                std::int64_t out_stride) {                                                          \
      multiply_with<Registers<bytes>>(products, rows, out, out_stride);                                             \
    }                                                                                                               \
    template <class Number>                                                                                         \
    target static void combine(std::int64_t count, Number s, const Number* a, Number t, const Number* b,            \
                               Strips<Number>& out, std::int64_t k, std::int64_t column) {                          \
      combine_strips_with<Registers<bytes>>(count, s, a, t, b, out, k, column);                                     \
    }                                                                                                               \
    template <class Number>                                                                                         \
    target static void combine(std::int64_t rows, std::int64_t count, const ScaledRows<Number>& a,                  \
                               const ScaledRows<Number>& b, const CombinedRows<Number>& out) {                      \
      combine_rows_with<Registers<bytes>>(rows, count, a, b, out);                                                  \
    }                                                                                                               \
    template <class Number>                                                                                         \
    target static void accumulate(std::int64_t count, Number s, const Number* a, Number* out) {                     \
      accumulate_with(count, s, a, out);                                                                            \
    }                                                                                                               \
    template <class Number>                                                                                         \
    target static void gather(const Number* numbers, const std::int64_t* places, std::int64_t count, Number* out) { \
      gather_with(numbers, places, count, out);                                                                     \
    }                                                                                                               \
    template <class Number>                                                                                         \
    target static void add_up_products(const std::array<const Number*, 2>& factors, std::int64_t inner,             \
                                       std::int64_t step, std::span<Number> sums) {                                 \
      add_up_products_with(factors[0], factors[1], inner, step, sums);                                              \
    }                                                                                                               \
  }
HESSIAN_MPI_FOR_EACH_PROCESSOR(HESSIAN_MPI_FUNCTIONS_FOR);
#undef HESSIAN_MPI_FUNCTIONS_FOR
// NOLINTEND(bugprone-macro-parentheses)

}  // namespace

template <class Number, class Out>
void multiply(std::span<const Product<Number>> products, std::int64_t rows, Out* out, std::int64_t out_stride) {
  for_this_processor<Functions>([&](auto own) { own.multiply(products, rows, out, out_stride); });
}

template <class Number, class Out>
void add_up(const Number* left, std::int64_t left_stride, std::int64_t rows, std::int64_t inner, Out* out) {
  std::vector<Number> sums(static_cast<std::size_t>(rows), Number{0});
  for (std::int64_t k = 0; k < inner; ++k) accumulate(rows, Number{1}, left + k * left_stride, sums.data());
  std::transform(sums.begin(), sums.end(), out, [](Number x) { return static_cast<Out>(x); });
}

template <class Number>
void add_up_products(const std::array<const Number*, 2>& factors, std::int64_t inner, std::int64_t step,
                     std::span<Number> sums) {
  for_this_processor<Functions>([&](auto own) { own.add_up_products(factors, inner, step, sums); });
}

template <class Number>
void combine(std::int64_t count, Number s, const Number* a, Number t, const Number* b, Strips<Number>& out,
             std::int64_t k, std::int64_t column) {
  for_this_processor<Functions>([&](auto own) { own.combine(count, s, a, t, b, out, k, column); });
}

template <class Number>
void combine(std::int64_t rows, std::int64_t count, const ScaledRows<Number>& a, const ScaledRows<Number>& b,
             const CombinedRows<Number>& out) {
  for_this_processor<Functions>([&](auto own) { own.combine(rows, count, a, b, out); });
}

template <class Number>
void accumulate(std::int64_t count, Number s, const Number* a, Number* out) {
  for_this_processor<Functions>([&](auto own) { own.accumulate(count, s, a, out); });
}

template <class Number>
void gather(const Number* numbers, const std::int64_t* places, std::int64_t count, Number* out) {
  for_this_processor<Functions>([&](auto own) { own.gather(numbers, places, count, out); });
}

// As many rows are read along, each from one end to the other, as fill a line of the cache in each column.
template <class Number>
void transpose(const Number* from, std::int64_t from_step, std::int64_t rows, std::int64_t columns, Number* to,
               std::int64_t to_step) {
  constexpr std::int64_t lanes = 16 / sizeof(Number);
  constexpr std::int64_t at_once = Strips<Number>::width;
  for (std::int64_t first = 0; first < rows; first += at_once, from += at_once * from_step, to += at_once) {
    const auto count = std::min(at_once, rows - first);
    std::int64_t j = 0;
    for (; count == at_once && j + lanes <= columns; j += lanes) {
      for (std::int64_t i = 0; i < at_once; i += lanes) {
        transpose_square(from + i * from_step + j, from_step, to + j * to_step + i, to_step);
      }
    }
    for (; j < columns; ++j) {
      for (std::int64_t i = 0; i < count; ++i) to[j * to_step + i] = from[i * from_step + j];
    }
  }
}

template void multiply(std::span<const Product<float>>, std::int64_t, float*, std::int64_t);
template void multiply(std::span<const Product<float>>, std::int64_t, double*, std::int64_t);
template void multiply(std::span<const Product<double>>, std::int64_t, float*, std::int64_t);
template void multiply(std::span<const Product<double>>, std::int64_t, double*, std::int64_t);
template void add_up(const float*, std::int64_t, std::int64_t, std::int64_t, float*);
template void add_up(const float*, std::int64_t, std::int64_t, std::int64_t, double*);
template void add_up(const double*, std::int64_t, std::int64_t, std::int64_t, float*);
template void add_up(const double*, std::int64_t, std::int64_t, std::int64_t, double*);
template void add_up_products(const std::array<const float*, 2>&, std::int64_t, std::int64_t, std::span<float>);
template void add_up_products(const std::array<const double*, 2>&, std::int64_t, std::int64_t, std::span<double>);
template void combine(std::int64_t, float, const float*, float, const float*, Strips<float>&, std::int64_t,
                      std::int64_t);
template void combine(std::int64_t, double, const double*, double, const double*, Strips<double>&, std::int64_t,
                      std::int64_t);
template void combine(std::int64_t, std::int64_t, const ScaledRows<float>&, const ScaledRows<float>&,
                      const CombinedRows<float>&);
template void combine(std::int64_t, std::int64_t, const ScaledRows<double>&, const ScaledRows<double>&,
                      const CombinedRows<double>&);
template void gather(const float*, const std::int64_t*, std::int64_t, float*);
template void gather(const double*, const std::int64_t*, std::int64_t, double*);
template void transpose(const float*, std::int64_t, std::int64_t, std::int64_t, float*, std::int64_t);
template void transpose(const double*, std::int64_t, std::int64_t, std::int64_t, double*, std::int64_t);
template void accumulate(std::int64_t, float, const float*, float*);
template void accumulate(std::int64_t, double, const double*, double*);

}  // namespace hessian_mpi::engines
