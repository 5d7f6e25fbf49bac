#include "hessian_mpi/after/convert.hpp"

#include <fcntl.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <iostream>
#include <limits>
#include <optional>
#include <vector>

#include "hessian_mpi/base/checksum.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/base/timestamp.hpp"
#include "hessian_mpi/cli/progress.hpp"
#include "hessian_mpi/cli/version.hpp"
#include "hessian_mpi/file/check_figures.hpp"
#include "hessian_mpi/file/file_checks.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "hessian_mpi/file/matrix_datasets.hpp"
#include "hessian_mpi/file/row_stream.hpp"
#include "hessian_mpi/ranks/one_folder.hpp"
#include "hessian_mpi/system/posix_file.hpp"
#include "hessian_mpi/system/unfinished_file.hpp"
#include "hessian_mpi/system/writeback.hpp"

namespace hessian_mpi::after {
namespace {

// What a chunk holds where the user does not say: a page of a block that is read by name, and still worth compressing.
constexpr std::int64_t bytes_of_chunk = 256 << 10;
// Numbers of two rows and two columns that stay in the innermost cache while they are exchanged.
constexpr std::int64_t side_of_tile = 32;
constexpr std::uint64_t most_bytes_at_once = 1 << 29;

// --- rows of the source

// Adds to rows [begin, end) what the same columns hold, and halves it. columns: N x rows numbers.
template <class Number>
void add_transpose(Number* rows, const Number* columns, std::int64_t count, std::int64_t n) {
  for (std::int64_t i0 = 0; i0 < count; i0 += side_of_tile) {
    for (std::int64_t j0 = 0; j0 < n; j0 += side_of_tile) {
      for (auto i = i0; i < std::min(i0 + side_of_tile, count); ++i) {
        for (auto j = j0; j < std::min(j0 + side_of_tile, n); ++j) {
          const auto sum = static_cast<double>(rows[i * n + j]) + static_cast<double>(columns[j * count + i]);
          rows[i * n + j] = static_cast<Number>(sum / 2);
        }
      }
    }
  }
}

// Hands out rows of the source: of its symmetric part, or of the whole of which it has the upper triangle, both of
// which are made for as many rows at once as memory has room for.
class SourceRows {
 public:
  SourceRows(const ConvertOptions& options, const file::StoredLayout& source, const Rows& own)
      : file_(hdf5::File::open_to_read(options.source)),
        name_(file::MatrixDatasets(file_).name()),
        matrix_(source.matrix),
        own_(own),
        packed_(source.packed),
        symmetrise_(options.symmetrise) {
    const auto memory = std::min(options.memory / 2, most_bytes_at_once);
    height_ = std::max<std::int64_t>(1, static_cast<std::int64_t>(memory) / matrix_.bytes_of_row());
  }

  // Rows in ascending order, of this rank.
  file::Slab rows(const Rows& wanted) {
    if (wanted.begin < slab_.begin || wanted.end > slab_.end) {
      slab_ = symmetrise_ || packed_
                  ? Rows{wanted.begin, std::min(std::max(wanted.end, wanted.begin + height_), own_.end)}
                  : wanted;
      read();
    }
    const auto* first = numbers_.data() + (wanted.begin - slab_.begin) * matrix_.bytes_of_row();
    return {wanted, matrix_.columns, matrix_.storage, first};
  }

 private:
  void read() {
    numbers_.resize(static_cast<std::size_t>(slab_.count() * matrix_.bytes_of_row()));
    if (packed_) {
      matrix_.storage == Precision::float32 ? unpack<float>() : unpack<double>();
    } else {
      read_rows();
    }
  }

  // Column j of the rows before which row j lies is a piece of that row.
  template <class Number>
  void unpack() {
    const auto n = matrix_.columns;
    auto* numbers = reinterpret_cast<Number*>(numbers_.data());
    std::vector<Number> piece(static_cast<std::size_t>(n));
    const auto read_piece = [&](std::int64_t row, const Rows& columns) {
      const auto begin = file::packed_begin(row, n) + columns.begin - row;
      const hdf5::Tile tile{static_cast<std::uint64_t>(begin), 0, static_cast<std::uint64_t>(columns.count()), 1};
      file_.read_tile(name_, hdf5::type_of(matrix_.storage), tile, piece.data());
    };
    const auto put = [&](std::int64_t row, std::int64_t column, Number number) {
      if (row >= slab_.begin && row < slab_.end) numbers[(row - slab_.begin) * n + column] = number;
    };
    for (std::int64_t row = 0; row < slab_.end; ++row) {
      const Rows columns = row < slab_.begin ? slab_ : Rows{row, n};
      read_piece(row, columns);
      for (auto j = columns.begin; j < columns.end; ++j) {
        const auto number = piece[static_cast<std::size_t>(j - columns.begin)];
        put(row, j, number);
        put(j, row, number);
      }
    }
  }

  void read_rows() {
    const auto count = static_cast<std::uint64_t>(slab_.count());
    const auto n = static_cast<std::uint64_t>(matrix_.columns);
    const auto first = static_cast<std::uint64_t>(slab_.begin - matrix_.grid.part().begin);
    const auto type = hdf5::type_of(matrix_.storage);
    file_.read_tile(name_, type, {first, 0, count, n}, numbers_.data());
    if (!symmetrise_) return;
    columns_.resize(numbers_.size());
    file_.read_tile(name_, type, {0, first, n, count}, columns_.data());
    const auto add = [&](auto zero) {
      using Number = decltype(zero);
      add_transpose(reinterpret_cast<Number*>(numbers_.data()), reinterpret_cast<const Number*>(columns_.data()),
                    slab_.count(), matrix_.columns);
    };
    matrix_.storage == Precision::float32 ? add(0.0F) : add(0.0);
  }

  hdf5::File file_;
  std::string name_;  // of the dataset
  matrix::MatrixShape matrix_;
  Rows own_;
  bool packed_;
  bool symmetrise_;
  std::int64_t height_ = 1;
  Rows slab_;
  std::vector<char> numbers_;
  std::vector<char> columns_;
};

// --- blocks of the copy

// A block as it is to lie in the file.
struct CopiedBlock {
  file::StoredBlock block;
  std::vector<char> bytes;
};

template <class To, class From>
double copy_numbers(const From* from, std::size_t count, char* to) {
  double largest = 0;
  auto* numbers = reinterpret_cast<To*>(to);
  for (std::size_t k = 0; k < count; ++k) {
    numbers[k] = static_cast<To>(from[k]);
    largest = std::max(largest, std::abs(static_cast<double>(numbers[k])));
  }
  return largest;
}

// The copy, its blocks, and which of them are this rank's.
struct Copy {
  const ConvertOptions& options;
  const file::StoredLayout& source;
  std::filesystem::path file;  // gets the name of the output when it is whole
  matrix::MatrixShape matrix;
  std::vector<file::StoredBlock> blocks;
  std::optional<hdf5::Chunks> chunks;
  matrix::Blocks own;

  Rows own_rows() const {
    if (own.count() == 0) return {};
    return {blocks[static_cast<std::size_t>(own.begin)].rows.begin,
            blocks[static_cast<std::size_t>(own.end - 1)].rows.end};
  }
  // Where rows begin, in bytes from the first; where they end, the next ones begin.
  std::int64_t place(std::int64_t row) const {
    const auto numbers =
        options.triangle ? file::packed_begin(row, matrix.columns) : (row - matrix.grid.part().begin) * matrix.columns;
    return numbers * static_cast<std::int64_t>(bytes_of(matrix.storage));
  }
};

CopiedBlock copied(const Copy& copy, const file::Slab& slab) {
  const auto& rows = slab.rows;
  CopiedBlock result{{rows, {0, 0, true}},
                     std::vector<char>(static_cast<std::size_t>(copy.place(rows.end) - copy.place(rows.begin)))};
  auto& largest = result.block.record.largest;
  char* to = result.bytes.data();
  const auto n = slab.columns;
  file::with_numbers(slab, [&](const auto* numbers) {
    for (std::int64_t i = 0; i < rows.count(); ++i) {
      const auto skipped = copy.options.triangle ? rows.begin + i : 0;
      const auto* from = numbers + i * n + skipped;
      const auto count = static_cast<std::size_t>(n - skipped);
      largest = std::max(largest, copy.matrix.storage == Precision::float32 ? copy_numbers<float>(from, count, to)
                                                                            : copy_numbers<double>(from, count, to));
      to += count * bytes_of(copy.matrix.storage);
    }
  });
  if (std::isinf(largest)) {
    throw RunError(text("rows ", rows.begin, " to ", rows.end - 1, " of '", copy.options.source.string(),
                        "' hold infinity, or a number that is too large for ", name_of(copy.matrix.storage)));
  }
  result.block.record.checksum = xxh3(result.bytes.data(), result.bytes.size());
  return result;
}

hdf5::Chunks chunks_that_suit(hdf5::Chunks chunks, const matrix::MatrixShape& matrix) {
  const auto& part = matrix.grid.part();
  const auto number = static_cast<std::int64_t>(bytes_of(matrix.storage));
  const auto limit = [](std::int64_t wanted, std::int64_t most) {
    return static_cast<std::uint64_t>(std::clamp<std::int64_t>(wanted, 1, most));
  };
  if (chunks.rows == 0) chunks.rows = limit(matrix.grid.rows_per_block(), part.count());
  const auto rows = limit(static_cast<std::int64_t>(std::min<std::uint64_t>(chunks.rows, 1U << 30)), part.count());
  if (chunks.columns == 0)
    chunks.columns = limit(bytes_of_chunk / number / static_cast<std::int64_t>(rows), matrix.columns);
  chunks.rows = rows;
  chunks.columns = std::min<std::uint64_t>(chunks.columns, static_cast<std::uint64_t>(matrix.columns));
  return chunks;
}

// In chunks, a block is a row of chunks: no two ranks write into one.
std::vector<file::StoredBlock> blocks_of_copy(const matrix::MatrixShape& matrix,
                                              const std::optional<hdf5::Chunks>& chunks) {
  if (!chunks) return file::blocks_of(matrix.grid);
  std::vector<file::StoredBlock> blocks;
  const auto& part = matrix.grid.part();
  const auto height = static_cast<std::int64_t>(chunks->rows);
  for (auto begin = part.begin; begin < part.end; begin += height) {
    blocks.push_back({{begin, std::min(begin + height, part.end)}, {}});
  }
  return blocks;
}

Copy copy_of(const ConvertOptions& options, const file::StoredLayout& source, const ranks::Communicator& communicator) {
  const auto n = source.matrix.columns;
  const auto storage = options.storage.value_or(source.matrix.storage);
  const auto bytes_of_row = n * static_cast<std::int64_t>(bytes_of(storage));
  Copy copy{options, source, {}, {matrix::BlockGrid(n, bytes_of_row, source.matrix.grid.part()), n, storage},
            {},      {},     {}};
  if (options.chunks) copy.chunks = chunks_that_suit(*options.chunks, copy.matrix);
  copy.blocks = blocks_of_copy(copy.matrix, copy.chunks);
  copy.own = matrix::share(static_cast<std::int64_t>(copy.blocks.size()), communicator.rank(), communicator.size());
  return copy;
}

std::string text_of_conversion(const Copy& copy) {
  std::vector<std::string> steps;
  const auto from = copy.source.matrix.storage;
  if (from != copy.matrix.storage) steps.push_back(text(name_of(from), " to ", name_of(copy.matrix.storage)));
  if (copy.source.packed) steps.emplace_back("upper triangle mirrored");
  if (copy.options.symmetrise) steps.emplace_back("symmetrised");
  if (copy.options.triangle) steps.emplace_back("upper triangle packed");
  if (copy.chunks) {
    steps.push_back(text("chunks of ", copy.chunks->rows, " x ", copy.chunks->columns));
    if (copy.chunks->shuffle) steps.emplace_back("shuffled");
    if (copy.chunks->gzip > 0) steps.push_back(text("gzip ", copy.chunks->gzip));
  }
  return steps.empty() ? "copied" : joined(steps, ", ");
}

// The source's, and where the copy comes from.
file::Attributes attributes_of(const Copy& copy) {
  auto attributes = copy.source.attributes;
  const file::Attributes added{{"converted_from", copy.options.source.string()},
                               {"converted_from_id", copy.source.file_id},
                               {"converted_from_sum", file::sum_of(copy.source.blocks)},
                               {"conversion", text_of_conversion(copy)},
                               {"conversion_command_line", copy.options.command_line},
                               {"conversion_version", cli::versions().hessian_mpi},
                               {"converted", std::string()}};
  for (const auto& [name, value] : added) {
    std::erase_if(attributes, [&key = name](const auto& attribute) { return attribute.first == key; });
    attributes.emplace_back(name, value);
  }
  return attributes;
}

cli::Progress progress_of(const Copy& copy, const ranks::Communicator& communicator) {
  return {communicator.is_root() && cli::is_on_terminal() ? ProgressStyle::bar : ProgressStyle::none,
          copy.matrix.grid.part().count(),
          0,
          static_cast<std::uint64_t>(copy.matrix.bytes()),
          copy.own_rows().count(),
          std::cerr};
}

// Where the rows of the copy begin in its file.
std::uint64_t begin_of_rows(const std::filesystem::path& path) {
  const auto file = hdf5::File::open_to_read(path);
  return file.offset_in_file(file::MatrixDatasets(file).name());
}

// Each rank writes its blocks where they belong.
void write_plainly(Copy& copy, cli::Progress& progress) {
  SourceRows source(copy.options, copy.source, copy.own_rows());
  const auto offset = begin_of_rows(copy.file);
  system::EarlyWriteback file(copy.file);
  for (auto b = copy.own.begin; b < copy.own.end; ++b) {
    auto& block = copy.blocks[static_cast<std::size_t>(b)];
    const auto result = copied(copy, source.rows(block.rows));
    const auto place = offset + static_cast<std::uint64_t>(copy.place(block.rows.begin));
    file.write(place, result.bytes);
    file.start(place, result.bytes.size());
    block = result.block;
    progress.advance(static_cast<double>(block.rows.count()));
  }
  file.finish();
  file.sync();
}

// Collective. Compressed chunks get their places from HDF5, which all ranks have to agree on: they write in rounds.
void write_chunks(Copy& copy, cli::Progress& progress, const ranks::Communicator& communicator) {
  auto source = communicator.together([&] { return SourceRows(copy.options, copy.source, copy.own_rows()); });
  file::HessianWriter writer(copy.file, copy.matrix, communicator);
  const auto rounds = communicator.max(copy.own.count());
  for (std::int64_t round = 0; round < rounds; ++round) {
    const auto b = static_cast<std::size_t>(copy.own.begin + round);
    const auto result = communicator.together(
        [&] { return round < copy.own.count() ? copied(copy, source.rows(copy.blocks[b].rows)) : CopiedBlock{}; });
    writer.write(result.block.rows, result.bytes.data());
    if (round < copy.own.count()) copy.blocks[b] = result.block;
    progress.advance(static_cast<double>(result.block.rows.count()));
  }
  writer.close();
}

// Collective. All ranks learn of the blocks of the others.
void share_blocks(Copy& copy, const ranks::Communicator& communicator) {
  constexpr std::size_t numbers_per_block = 3;
  std::vector<std::uint64_t> numbers;
  for (auto b = copy.own.begin; b < copy.own.end; ++b) {
    const auto& record = copy.blocks[static_cast<std::size_t>(b)].record;
    numbers.insert(numbers.end(),
                   {static_cast<std::uint64_t>(b), record.checksum, std::bit_cast<std::uint64_t>(record.largest)});
  }
  const auto all = communicator.join(numbers);
  for (std::size_t k = 0; k < all.size(); k += numbers_per_block) {
    copy.blocks[all[k]].record = {all[k + 1], std::bit_cast<double>(all[k + 2]), true};
  }
}

// Collective. Reads everything back. Returns the symmetry error.
double check(const Copy& copy, const ranks::Communicator& communicator) {
  const auto& path = copy.file;
  const auto verify = copy.options.triangle ? file::verify_packed_blocks : file::verify_stored_blocks;
  const auto damaged = verify(path, copy.matrix, copy.blocks, {}, communicator).damaged.size();
  communicator.together([&] {
    if (damaged == 0) return;
    throw RunError(text(damaged, " of ", copy.blocks.size(), " row blocks in '", copy.options.output.string(),
                        "' are not what was written to it"));
  });
  const auto& part = copy.matrix.grid.part();
  if (copy.options.triangle || part.count() != copy.matrix.columns) return std::numeric_limits<double>::quiet_NaN();
  double largest = 0;
  for (const auto& block : copy.blocks) largest = std::max(largest, block.record.largest);
  return file::symmetry_error(path, file::sample_for_symmetry(copy.source.index, part), largest, communicator);
}

// Collective.
void write_rows(Copy& copy, const ranks::Communicator& communicator) {
  auto progress = progress_of(copy, communicator);
  if (copy.chunks) {
    write_chunks(copy, progress, communicator);
  } else {
    communicator.together([&] { write_plainly(copy, progress); });
  }
  share_blocks(copy, communicator);
}

std::uint64_t bytes_in_file(const std::filesystem::path& path) {
  const auto file = hdf5::File::open_to_read(path);
  return file.stored_bytes(file::MatrixDatasets(file).name()).value_or(0);
}

// Collective. All but the making of the file.
Converted fill(Copy& copy, const ranks::Communicator& communicator) {
  Stopwatch watch;
  Converted result{copy.matrix.grid.part().count(), copy.matrix.columns};
  write_rows(copy, communicator);
  result.seconds = communicator.max(watch.lap());
  result.symmetry_error = check(copy, communicator);
  result.seconds_to_check = communicator.max(watch.lap());
  file::Attributes last{{"converted", timestamp()}};
  if (!std::isnan(result.symmetry_error)) last.emplace_back("symmetry_error", result.symmetry_error);
  communicator.on_root([&] {
    file::finish_copy(copy.file, copy.blocks, last);
    result.bytes = bytes_in_file(copy.file);
  });
  return result;
}

}  // namespace

system::UsedFiles ConvertOptions::files() const {
  return {file::files_of_matrix(source), output};
}

Converted convert(const ConvertOptions& options, const ranks::Communicator& communicator) {
  const auto source = communicator.together([&] {
    return file::read_layout(options.source, {.all_rows = options.symmetrise || options.triangle, .unpacked = false});
  });
  file::expect_one_file(options.source, source, communicator);
  auto copy = communicator.together([&] { return copy_of(options, source, communicator); });
  const file::RowLayout rows{copy.blocks, copy.chunks, options.triangle};
  communicator.on_root([&] { file::check_room_for(options.output, copy.matrix, rows, options.overwrite); });
  ranks::expect_one_folder(options.output, communicator);
  // What fails or is stopped leaves nothing, and what was there before as it was.
  std::optional<system::UnfinishedFile> unfinished;
  communicator.on_root([&] {
    unfinished.emplace(options.output);
    file::create_copy(unfinished->path(),
                      {source.index, copy.matrix, source.dtype, source.value, source.gradient, attributes_of(copy)},
                      rows, false);
  });
  copy.file = communicator.from_root(unfinished ? unfinished->path().string() : std::string());
  // Also by a rank that fails alone, which ends the others.
  if (!unfinished) unfinished.emplace(copy.file, system::UnfinishedFile::UnderItsName{});
  const auto result = fill(copy, communicator);
  communicator.on_root([&] { unfinished->publish(options.output, options.overwrite); });
  return result;
}

}  // namespace hessian_mpi::after
