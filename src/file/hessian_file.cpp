#include "hessian_mpi/file/hessian_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <set>

#include "hessian_mpi/base/checksum.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/quantity.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "hessian_mpi/file/joined_parts.hpp"
#include "hessian_mpi/file/matrix_datasets.hpp"
#include "hessian_mpi/file/parameter_names.hpp"
#include "hessian_mpi/file/sums.hpp"
#include "hessian_mpi/hdf5/raw_file.hpp"
#include "hessian_mpi/ranks/one_folder.hpp"
#include "hessian_mpi/system/edit_at_once.hpp"
#include "hessian_mpi/system/file_size_limit.hpp"
#include "hessian_mpi/system/node.hpp"
#include "hessian_mpi/system/posix_file.hpp"
#include "hessian_mpi/system/random_id.hpp"
#include "hessian_mpi/system/unfinished_file.hpp"
#include "hessian_mpi/system/used_files.hpp"
#include "hessian_mpi/system/writeback.hpp"
#include "named_blocks.hpp"
#include "sum_lines.hpp"

namespace hessian_mpi::file {
namespace {

constexpr const char* format_name = "hessian_mpi";
constexpr const char* format_of_packed = "hessian_mpi packed triangle";
constexpr std::int64_t format_version = 1;
// Attributes of the root group that this module sets itself.
constexpr std::array own_attributes{"format",    "format_version", "file_id",        "complete",
                                    "row_begin", "row_end",        "rows_of_sample", sums_attribute};
// What metadata, parameters and gradient take at most beside the matrix, roughly: it decides a warning, not a layout.
constexpr std::uint64_t metadata_allowance = 1 << 20;

void throw_no_room(const std::filesystem::path& path, std::uint64_t needed) {
  throw InputError(text("no room for '", path.string(), "': it takes ", text_of_bytes(needed), ", the file system of '",
                        system::folder_of(path).string(), "' has ",
                        text_of_bytes(system::free_disk(system::folder_of(path))),
                        " left; name a file on a larger one, or make a smaller matrix by hessian_mpi's --storage "
                        "float32 or --parameters"));
}

// Before HDF5 meets the limit of `ulimit -f`, which it does not survive.
void expect_allowed(const std::filesystem::path& path, std::uint64_t bytes) {
  // Views, and vectors of N numbers, which may be more than a diagonal is.
  constexpr std::uint64_t views = 4 * metadata_allowance;
  constexpr std::uint64_t most_of_vectors = std::uint64_t{256} << 20;
  const auto needed = bytes + std::min(4 * bytes, most_of_vectors) + views;
  if (system::largest_file() >= needed) return;
  throw RunError(text("'", path.string(), "' cannot be made: ", system::reason(EFBIG), ": it may take ",
                      text_of_bytes(needed), ", `ulimit -f` allows ", text_of_bytes(system::largest_file())));
}

// Takes the matrix's space from the disk now, so that a full disk is found before hours of computing. Where the file
// system cannot do that in advance (NFS before 4.2), it is found when it happens.
void take_space(const std::filesystem::path& file, const std::filesystem::path& named,
                const std::vector<system::Extent>& extents) {
  const system::PosixFile opened(file, O_RDWR);
  for (const auto& [offset, bytes] : extents) {
    const int error = opened.take_space(offset, bytes);
    if (error == EFBIG) {
      throw RunError(text("'", named.string(), "' cannot be made: ", system::reason(error), ": it takes ",
                          text_of_bytes(offset + bytes), ", more than `ulimit -f` or the file system allows"));
    }
    if (error != 0) throw_no_room(named, bytes);
  }
}

// matrix: the object that has the order of parameters.
void describe_parameters(hdf5::File& file, const std::string& matrix, const matrix::ParameterIndex& index) {
  name_parameters(file, matrix, index);
  std::vector<std::string> names;
  std::vector<std::int64_t> offsets;
  std::vector<std::int64_t> sizes;
  std::vector<std::int64_t> dimensions;
  std::size_t most_dimensions = 0;
  for (const auto& entry : index.entries()) {
    names.push_back(entry.name);
    offsets.push_back(entry.offset);
    sizes.push_back(entry.size);
    dimensions.push_back(static_cast<std::int64_t>(entry.shape.size()));
    most_dimensions = std::max(most_dimensions, entry.shape.size());
  }
  const auto count = names.size();
  most_dimensions = std::max<std::size_t>(most_dimensions, 1);  // a network of scalars still has a table
  std::vector<std::int64_t> table(count * most_dimensions, 0);
  for (std::size_t p = 0; p < count; ++p) {
    std::copy(index.entries()[p].shape.begin(), index.entries()[p].shape.end(),
              table.begin() + static_cast<std::ptrdiff_t>(p * most_dimensions));
  }
  file.write_strings("/parameters/name", names);
  for (const auto& [name, values] : {std::pair{"offset", &offsets}, {"size", &sizes}, {"ndim", &dimensions}}) {
    file.create_dataset(text("/parameters/", name), hdf5::Type::int64, {count});
    file.write(text("/parameters/", name), hdf5::Type::int64, values->data());
  }
  file.create_dataset("/parameters/shape", hdf5::Type::int64, {count, most_dimensions});
  file.write("/parameters/shape", hdf5::Type::int64, table.data());
}

// Which sample, and which number of it, a row is of. rows_of_sample says the same for a program, and how many rows the
// matrix has of which this file is a part.
void describe_rows(hdf5::File& file, const matrix::MatrixShape& matrix) {
  const auto& part = matrix.grid.part();
  std::vector<std::int64_t> samples;
  std::vector<std::int64_t> outputs;
  for (auto row = part.begin; row < part.end; ++row) {
    samples.push_back(row / matrix.rows_of_sample);
    outputs.push_back(row % matrix.rows_of_sample);
  }
  file.create_group("/rows");
  for (const auto& [name, numbers] : {std::pair{"/rows/sample", &samples}, {"/rows/output", &outputs}}) {
    file.create_dataset(name, hdf5::Type::int64, {numbers->size()});
    file.write(name, hdf5::Type::int64, numbers->data());
  }
  file.set_attribute("/", "rows_of_sample", matrix.rows_of_sample);
}

// All but the matrix and views of it.
void describe(hdf5::File& file, const HessianLayout& layout, const std::vector<StoredBlock>& blocks,
              bool packed = false) {
  for (const auto* group : {"/parameters", "/blocks"}) file.create_group(group);
  describe_parameters(file, matrix_object(layout.matrix.entries), layout.index);
  write_blocks(file, blocks);
  if (layout.matrix.entries == Entries::of_samples) describe_rows(file, layout.matrix);
  for (const auto& [name, values] : {std::pair{"/parameters/value", &layout.value}, {"/gradient", &layout.gradient}}) {
    file.create_dataset(name, hdf5::type_of(layout.dtype), {static_cast<std::uint64_t>(layout.matrix.columns)});
    file.write(name, hdf5::Type::float64, values->data());
  }
  file.set_attribute("/", "format", std::string(packed ? format_of_packed : format_name));
  file.set_attribute("/", "format_version", format_version);
  file.set_attribute("/", "file_id", system::random_id());
  file.set_attribute("/", "complete", std::int64_t{0});
  file.set_attribute("/", "row_begin", layout.matrix.grid.part().begin);
  file.set_attribute("/", "row_end", layout.matrix.grid.part().end);
  file.set_attribute("/", sums_attribute, std::string());
  set_attributes(file, "/", layout.attributes);
}

void create_views(hdf5::File& file, const HessianLayout& layout) {
  const bool whole = layout.matrix.entries == Entries::all && layout.matrix.has_all_rows();
  if (whole) create_named_blocks(file, layout.index);
}

// What an interrupted edit has left of a file that had this name is not to be taken for one of the new file.
void publish(const system::UnfinishedFile& file, const std::filesystem::path& path, bool replace) {
  file.publish(path, replace);
  system::forget_edit(path);
}

std::uint64_t bytes_of(const MatrixDataset& dataset, const matrix::MatrixShape& matrix) {
  return static_cast<std::uint64_t>(matrix.bytes_of_rows(dataset.rows));
}

std::uint64_t bytes_of_packed(const matrix::MatrixShape& matrix) {
  return static_cast<std::uint64_t>(packed_begin(matrix.columns, matrix.columns)) * bytes_of(matrix.storage);
}

// Writes everything but the rows and takes their space, on the disk.
void lay_out(const std::filesystem::path& path, const std::filesystem::path& named, const HessianLayout& layout,
             const RowLayout& rows) {
  const auto& matrix = layout.matrix;
  const auto type = hdf5::type_of(matrix.storage);
  std::vector<system::Extent> extents;
  system::make_at_once(path, [&](const std::filesystem::path& in_memory) {
    auto file = hdf5::File::create(in_memory);
    if (matrix.entries == Entries::diagonal_blocks) file.create_group(matrix_object(matrix.entries));
    for (const auto& dataset : datasets_of(matrix, layout.index)) {
      if (rows.chunks) {
        file.create_chunked_dataset(dataset.name, type, dataset.shape, *rows.chunks);
        continue;
      }
      const auto packed = static_cast<std::uint64_t>(packed_begin(matrix.columns, matrix.columns));
      file.create_dataset(dataset.name, type, rows.packed ? std::vector<std::uint64_t>{packed} : dataset.shape);
      extents.push_back(
          {file.offset_in_file(dataset.name), rows.packed ? bytes_of_packed(matrix) : bytes_of(dataset, matrix)});
    }
    describe(file, layout, rows.blocks, rows.packed);
    if (!rows.packed) create_views(file, layout);
    file.close();
  });
  take_space(path, named, extents);
  system::bring_to_disk(path);
}

// Where a file that lies beside `path` has to look for another one.
std::filesystem::path seen_from(const std::filesystem::path& path, const std::filesystem::path& other) {
  return std::filesystem::proximate(std::filesystem::absolute(other),
                                    std::filesystem::absolute(system::folder_of(path)));
}

void refer_to_parts(const std::filesystem::path& path, const HessianLayout& layout, const std::vector<PartFile>& parts,
                    const std::vector<StoredBlock>& blocks) {
  std::vector<hdf5::RowsElsewhere> elsewhere;
  elsewhere.reserve(parts.size());
  for (const auto& part : parts) {
    elsewhere.push_back({seen_from(path, part.path), static_cast<std::uint64_t>(part.rows.begin),
                         static_cast<std::uint64_t>(part.rows.end)});
  }
  system::make_at_once(path, [&](const std::filesystem::path& in_memory) {
    auto file = hdf5::File::create(in_memory);
    const auto whole = datasets_of(layout.matrix, layout.index).front();
    file.create_virtual_dataset(whole.name, hdf5::type_of(layout.matrix.storage), whole.shape, elsewhere);
    describe(file, layout, blocks);
    create_views(file, layout);
    file.close();
  });
}

void copy_rows(const std::filesystem::path& path, const matrix::MatrixShape& matrix,
               const std::vector<PartFile>& parts) {
  system::EarlyWriteback file(path);
  const auto made = hdf5::File::open_to_read(path);
  const auto offset = made.offset_in_file(MatrixDatasets(made).name());
  for (const auto& part : parts) {
    const HessianReader reader(part.path);
    for (const auto& [rows, record] : part.blocks) {
      const auto bytes = reader.bytes(rows, matrix);
      if (xxh3(bytes.data(), bytes.size()) != record.checksum) {
        throw RunError(text("'", part.path.string(), "' is damaged: rows ", rows.begin, " to ", rows.end - 1,
                            " are not what was computed; run its job again with --resume --verify all"));
      }
      const auto place = offset + static_cast<std::uint64_t>(rows.begin * matrix.bytes_of_row());
      file.write(place, bytes);
      file.start(place, bytes.size());
    }
  }
  file.finish();
  file.sync();
}

// The bytes of the rows, in the order of the file; none where they lie in other files.
std::vector<system::Extent> matrix_in_file(const std::filesystem::path& path) {
  const auto file = hdf5::File::open_to_read(path);
  std::vector<system::Extent> extents;
  for (const auto& name : MatrixDatasets(file).names()) {
    if (const auto bytes = file.stored_bytes(name)) extents.push_back({file.offset_in_file(name), *bytes});
  }
  std::sort(extents.begin(), extents.end(),
            [](const system::Extent& a, const system::Extent& b) { return a.offset < b.offset; });
  return extents;
}

bool is_in_chunks(const std::filesystem::path& path) {
  const auto file = hdf5::File::open_to_read(path);
  return file.chunks(MatrixDatasets(file).name()).has_value();
}

// --- reading back ---------------------------------------------------------------------------------------------------

void expect_shape(const hdf5::File& file, const std::string& name, const std::vector<std::uint64_t>& shape) {
  if (file.shape(name) == shape) return;
  throw InputError(text("'", file.path().string(), "' is damaged: '", name, "' has another shape than it should"));
}

// A file from elsewhere may lead into others, or have less than its shapes say.
void expect_own_dataset(const hdf5::File& file, const std::string& name, bool may_be_virtual) {
  const bool elsewhere = file.linked_file(name).has_value();
  const auto stored = file.stored_bytes(name);
  const auto needed = file.needed_bytes(name);
  if (!elsewhere && ((may_be_virtual && !stored) || (stored && stored >= needed.value_or(0)))) return;
  throw InputError(text("'", file.path().string(), "' is damaged: '", name, "' is not where it should be"));
}

void expect_own_datasets(const hdf5::File& file) {
  for (const auto* name : {"/gradient", "/parameters/name", "/parameters/shape", "/parameters/ndim",
                           "/parameters/offset", "/parameters/size", "/parameters/value", "/blocks/begin",
                           "/blocks/end", "/blocks/checksum", "/blocks/largest", "/blocks/mark"}) {
    expect_own_dataset(file, name, false);
  }
}

// Of all parts together, in numbers of float32.
matrix::MatrixShape read_shape(const hdf5::File& file, const matrix::ParameterIndex& index) {
  const auto entries = entries_in(file);
  if (entries != Entries::of_samples) return matrix::matrix_of(index, Precision::float32, entries);
  constexpr auto most = std::int64_t{1} << 31;  // the product of more overflows
  const auto samples = file.integer_attribute("/", "samples").value_or(0);
  const auto rows_of_sample = file.integer_attribute("/", "rows_of_sample").value_or(0);
  if (samples < 1 || samples > most || rows_of_sample < 1 || rows_of_sample > most) {
    throw InputError(text("'", file.path().string(), "' is damaged: 'samples' or 'rows_of_sample' is wrong"));
  }
  return matrix::matrix_of_samples(index, Precision::float32, samples, rows_of_sample);
}

void expect_table_of_rows(const hdf5::File& file, const Rows& rows) {
  for (const auto* name : {"/rows/sample", "/rows/output"}) {
    expect_own_dataset(file, name, false);
    expect_shape(file, name, {static_cast<std::uint64_t>(rows.count())});
  }
}

// The matrix, whose datasets are looked at.
matrix::MatrixShape read_matrix(const hdf5::File& file, const matrix::ParameterIndex& index, bool packed) {
  const auto whole = read_shape(file, index);
  const auto entries = whole.entries;
  const Rows rows{file.integer_attribute("/", "row_begin").value_or(-1),
                  file.integer_attribute("/", "row_end").value_or(-1)};
  const auto n = index.size();
  const bool in_order = 0 <= rows.begin && rows.begin < rows.end && rows.end <= whole.grid.rows();
  constexpr auto most_packed = std::int64_t{1} << 31;  // the square of more overflows
  if (!in_order || (packed && n > most_packed) || ((!whole.has_whole_rows() || packed) && rows != Rows{0, n})) {
    throw InputError(
        text("'", file.path().string(), "' is damaged: '", matrix_object(entries), "' does not have its rows"));
  }
  const auto matrix_in = [&](Precision storage) {
    if (!whole.has_whole_rows()) return matrix::matrix_of(index, storage, entries);
    auto matrix = whole;
    matrix.storage = storage;
    return matrix.part(rows);
  };
  auto datasets = datasets_of(matrix_in(Precision::float32), index);
  if (packed) datasets.front().shape = {static_cast<std::uint64_t>(packed_begin(n, n))};
  const auto type = file.type(datasets.front().name);
  for (const auto& dataset : datasets) {
    expect_own_dataset(file, dataset.name, whole.has_whole_rows());
    expect_shape(file, dataset.name, dataset.shape);
    if (file.type(dataset.name) == type) continue;
    throw InputError(
        text("'", file.path().string(), "' is damaged: '", dataset.name, "' has another type than others"));
  }
  if (entries == Entries::of_samples) expect_table_of_rows(file, rows);
  return matrix_in(type == hdf5::Type::float32 ? Precision::float32 : Precision::float64);
}

// Sizes of a damaged file must not overflow what is computed with them.
void expect_plausible(const hdf5::File& file, std::int64_t before, const std::vector<std::int64_t>& shape) {
  constexpr std::int64_t most = std::int64_t{1} << 40;
  std::int64_t size = 1;
  bool plausible = true;
  for (const auto dimension : shape) {
    plausible = plausible && 0 <= dimension && !__builtin_mul_overflow(size, dimension, &size) && size <= most;
  }
  if (plausible && before + size <= most) return;
  throw InputError(text("'", file.path().string(), "' is damaged: the shapes of its parameters"));
}

matrix::ParameterIndex read_index(const hdf5::File& file) {
  const auto names = file.read_strings("/parameters/name");
  const auto table = file.shape("/parameters/shape");
  const auto width = table.size() == 2 ? table[1] : 0;
  expect_shape(file, "/parameters/shape", {names.size(), width});
  expect_shape(file, "/parameters/ndim", {names.size()});
  std::vector<std::int64_t> shapes(names.size() * width);
  std::vector<std::int64_t> dimensions(names.size());
  file.read("/parameters/shape", hdf5::Type::int64, shapes.data());
  file.read("/parameters/ndim", hdf5::Type::int64, dimensions.data());
  matrix::ParameterIndex index;
  for (std::size_t p = 0; p < names.size(); ++p) {
    const auto used = std::clamp<std::int64_t>(dimensions[p], 0, static_cast<std::int64_t>(width));
    const auto begin = shapes.begin() + static_cast<std::ptrdiff_t>(p * width);
    expect_plausible(file, index.size(), {begin, begin + used});
    index.append(names[p], {begin, begin + used});
  }
  return index;
}

std::vector<double> read_numbers(const hdf5::File& file, const std::string& name, std::int64_t n) {
  expect_shape(file, name, {static_cast<std::uint64_t>(n)});
  std::vector<double> numbers(static_cast<std::size_t>(n));
  file.read(name, hdf5::Type::float64, numbers.data());
  return numbers;
}

Attributes read_attributes(const hdf5::File& file) {
  Attributes attributes;
  for (const auto& name : file.attributes("/")) {
    if (std::find(own_attributes.begin(), own_attributes.end(), name) != own_attributes.end()) continue;
    if (const auto word = file.text_attribute("/", name)) attributes.emplace_back(name, *word);
    if (const auto whole = file.integer_attribute("/", name)) attributes.emplace_back(name, *whole);
    if (const auto number = file.number_attribute("/", name)) attributes.emplace_back(name, *number);
  }
  return attributes;
}

StoredLayout read_any_layout(const std::filesystem::path& path) {
  try {
    const auto file = hdf5::File::open_untrusted(path);
    const bool has_matrix = file.has(matrix_object(entries_in(file)));
    StoredLayout stored;
    const auto format = file.text_attribute("/", "format");
    stored.packed = format == format_of_packed && file.has(matrix_object(Entries::all));
    if ((format != format_name && !stored.packed) || !has_matrix) {
      throw InputError(text("'", path.string(), "' is not a file of hessian_mpi"));
    }
    if (const auto version = file.integer_attribute("/", "format_version"); version != format_version) {
      throw InputError(text("'", path.string(), "' has format version ", version.value_or(0), ", this program has ",
                            format_version));
    }
    expect_own_datasets(file);
    stored.index = read_index(file);
    stored.matrix = read_matrix(file, stored.index, stored.packed);
    stored.dtype = file.type("/gradient") == hdf5::Type::float32 ? Precision::float32 : Precision::float64;
    stored.value = read_numbers(file, "/parameters/value", stored.matrix.columns);
    stored.gradient = read_numbers(file, "/gradient", stored.matrix.columns);
    stored.file_id = file.text_attribute("/", "file_id").value_or("");
    stored.attributes = read_attributes(file);
    stored.blocks = read_blocks(file);
    stored.complete = file.integer_attribute("/", "complete") == 1;
    return stored;
  } catch (const RunError& error) {
    throw InputError(text("'", path.string(), "' is damaged, or not a file of hessian_mpi: ", error.what()));
  }
}

// Whether what a job makes under that name has the sum that was written.
bool is_again(const hdf5::RawFile& made, const std::string& name, const std::vector<SumLine>& sums) {
  const auto now = sum_of(made, name);
  return std::any_of(sums.begin(), sums.end(),
                     [&](const SumLine& line) { return line.name == name && line.sum == now; });
}

// What the attributes of the matrix are of, and what views are of, in a file that takes no space for it.
void create_without_rows(hdf5::File& file, const HessianLayout& layout) {
  const auto* name = matrix_object(layout.matrix.entries);
  if (!layout.matrix.has_whole_rows()) return file.create_group(name);
  const auto n = static_cast<std::uint64_t>(layout.matrix.columns);
  const auto rows = static_cast<std::uint64_t>(layout.matrix.grid.part().count());
  file.create_chunked_dataset(name, hdf5::type_of(layout.matrix.storage), {rows, n}, {1, n});
}

void put_back(const hdf5::RawFile& from, const std::string& name, hdf5::RawFile& to) {
  const auto at = name.find('@');
  if (name == group_of_named_blocks) {
    to.copy_group(from, name);
  } else if (at == std::string::npos) {
    to.copy_dataset(from, name);
  } else {
    to.copy_attribute(from, name.substr(0, at), name.substr(at + 1));
  }
}

// What is wrong with the file is told where it is read.
std::vector<hdf5::RowsElsewhere> parts_of(const std::filesystem::path& path) {
  try {
    const auto file = hdf5::File::open_to_read(path);
    return file.rows_elsewhere(MatrixDatasets(file).names().front());
  } catch (const Error&) {
    return {};
  }
}

// What a file says of itself must hold in those that are read as results.
void expect_consistent(const StoredLayout& stored, const std::filesystem::path& path) {
  for (const auto& [rows, record] : stored.blocks) {
    if (record.on_disk) continue;
    throw InputError(text("'", path.string(), "' is damaged: it says that it is complete, and that its rows ",
                          rows.begin, " to ", rows.end - 1, " are not there; run its job again with --resume"));
  }
  for (const auto& part : wrong_parts_of(hdf5::File::open_untrusted(path))) {
    throw InputError(text("'", path.string(), "' refers to the part '", part.file.string(), "', which ", part.what,
                          "; bring it back, or join the parts again"));
  }
}

void expect(const Needed& needed, const StoredLayout& stored, const std::filesystem::path& path) {
  const auto& matrix = stored.matrix;
  const auto& part = matrix.grid.part();
  if (needed.unpacked && stored.packed) {
    throw InputError(text("'", path.string(),
                          "' is the packed upper triangle of a matrix, as hessian_convert --triangle "
                          "makes it: hessian_convert '",
                          path.string(), "' WHOLE.h5 makes a whole one of it"));
  }
  if (needed.square && matrix.entries == Entries::of_samples) {
    throw InputError(text("'", path.string(), "' has derivatives of first order, ", matrix.grid.rows(),
                          " rows of samples by ", matrix.columns,
                          " parameters: this takes a matrix of parameters by "
                          "parameters, of --matrix hessian, ggn or fisher"));
  }
  if (needed.all_entries && !matrix.has_whole_rows()) {
    throw InputError(text("'", path.string(), "' has ",
                          matrix.entries == Entries::diagonal ? "the diagonal" : "diagonal blocks",
                          " alone: this takes a matrix made without --blocks diagonal and --diagonal"));
  }
  if (needed.complete && !stored.complete) {
    throw InputError(text("'", path.string(), "' is not complete: run its job to the end with --resume first"));
  }
  if (needed.complete) expect_consistent(stored, path);
  if (needed.all_rows && !matrix.has_all_rows()) {
    throw InputError(text("'", path.string(), "' holds rows ", part.begin, ':', part.end, " of ", matrix.grid.rows(),
                          ": join the parts with hessian_join first"));
  }
}

}  // namespace

void set_attributes(hdf5::File& file, const std::string& object, const Attributes& attributes) {
  for (const auto& [name, value] : attributes) {
    std::visit([&, &key = name](const auto& v) { file.set_attribute(object, key, v); }, value);
  }
}

void check_room_for(const std::filesystem::path& path, std::uint64_t bytes, bool replace) {
  system::expect_regular(path);
  const auto folder = system::folder_of(system::target_of(path));
  if (!std::filesystem::is_directory(folder)) {
    throw InputError(text("the folder '", folder.string(), "' of the output does not exist"));
  }
  if (!replace && std::filesystem::exists(path)) system::throw_exists(path);
  if (::access(folder.c_str(), W_OK | X_OK) != 0) {
    throw InputError(
        text("no file can be made in the folder '", folder.string(), "' of the output: ", system::reason(errno)));
  }
  if (system::free_disk(folder) < bytes + metadata_allowance) throw_no_room(path, bytes);
  expect_allowed(path, bytes);
}

void check_room_for(const std::filesystem::path& path, const matrix::MatrixShape& matrix, const RowLayout& rows,
                    bool replace) {
  const auto bytes = rows.packed ? bytes_of_packed(matrix) : static_cast<std::uint64_t>(matrix.bytes());
  check_room_for(path, rows.chunks ? 0 : bytes, replace);
}

std::string file_id(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return "";
  return hdf5::File::open_untrusted(path).text_attribute("/", "file_id").value_or("");
}

void create_hessian_file(const std::filesystem::path& path, const HessianLayout& layout, bool replace) {
  NewHessianFile(path, layout, replace).publish();
}

NewHessianFile::NewHessianFile(std::filesystem::path path, const HessianLayout& layout, bool replace)
    : name_(std::move(path)), replace_(replace), file_(name_) {
  const RowLayout rows{blocks_of(layout.matrix.grid), std::nullopt};
  check_room_for(name_, layout.matrix, rows, replace);
  lay_out(file_.path(), name_, layout, rows);
}

void NewHessianFile::publish() {
  file::publish(file_, name_, replace_);
}

void create_copy(const std::filesystem::path& path, const HessianLayout& layout, const RowLayout& rows, bool replace) {
  check_room_for(path, layout.matrix, rows, replace);
  const system::UnfinishedFile file(path);
  lay_out(file.path(), path, layout, rows);
  publish(file, path, replace);
}

void finish_copy(const std::filesystem::path& path, const std::vector<StoredBlock>& blocks,
                 const Attributes& attributes) {
  const auto finish = [&](const std::filesystem::path& at) {
    auto file = hdf5::File::open_to_write(at);
    rewrite_blocks(file, blocks);
    set_attributes(file, "/", attributes);
    file.set_attribute("/", "complete", std::int64_t{1});
    file.close();
    write_sums(at);
  };
  if (is_in_chunks(path)) {  // which lie anywhere between metadata
    finish(path);
  } else {
    system::edit_unfinished(path, matrix_in_file(path), finish);
  }
  system::bring_to_disk(path);
}

void create_joined_file(const std::filesystem::path& path, const HessianLayout& layout,
                        const std::vector<PartFile>& parts, bool copy, bool replace,
                        const std::function<Attributes(const std::filesystem::path&)>& look_at) {
  check_room_for(path, copy ? static_cast<std::uint64_t>(layout.matrix.bytes()) : 0, replace);
  const system::UnfinishedFile file(path);
  std::vector<StoredBlock> blocks;
  for (const auto& part : parts) blocks.insert(blocks.end(), part.blocks.begin(), part.blocks.end());
  if (copy) {
    lay_out(file.path(), path, layout, {blocks, std::nullopt});
    copy_rows(file.path(), layout.matrix, parts);
  } else {
    refer_to_parts(file.path(), layout, parts, blocks);
  }
  auto attributes = look_at(file.path());
  std::vector<std::string> ids;
  ids.reserve(parts.size());
  for (const auto& part : parts) ids.push_back(file_id(part.path));
  attributes.emplace_back("part_file_ids", joined(ids, "\n"));
  finish_hessian_file(file.path(), attributes, true);
  publish(file, path, replace);
}

void retake_space(const std::filesystem::path& path) {
  take_space(path, path, matrix_in_file(path));
}

std::vector<std::filesystem::path> files_of_matrix(const std::filesystem::path& path) {
  system::expect_regular(path);
  std::vector<std::filesystem::path> files{path};
  std::set<std::filesystem::path> looked_at;
  for (std::size_t k = 0; k < files.size(); ++k) {  // parts may be joined themselves
    const auto file = files[k];
    std::error_code none;
    const auto full_name = std::filesystem::canonical(file, none);
    if (!std::filesystem::is_regular_file(full_name, none) || !looked_at.insert(full_name).second) continue;
    // HDF5 looks for them beside the name that the file is opened by, then beside what a symlink leads to.
    for (const auto& part : parts_of(file)) {
      for (const auto& folder : {system::folder_of(file), full_name.parent_path()}) files.push_back(folder / part.file);
    }
  }
  return files;
}

StoredLayout read_layout(const std::filesystem::path& path, const Needed& needed) {
  system::expect_regular(path);
  if (!std::filesystem::exists(path)) throw InputError(text("'", path.string(), "': no such file"));
  auto stored = read_any_layout(path);
  expect(needed, stored, path);
  return stored;
}

void expect_one_file(const std::filesystem::path& path, const StoredLayout& stored,
                     const ranks::Communicator& communicator) {
  const auto sum_of = [](const std::vector<double>& numbers) {
    return xxh3(numbers.data(), numbers.size() * sizeof(double));
  };
  auto content = text(stored.file_id, ' ', sum_of(stored.value), ' ', sum_of(stored.gradient));
  for (const auto& entry : stored.index.entries()) content += text(' ', entry.name, matrix::text_of_shape(entry.shape));
  // One that is being written has other marks a moment later.
  const bool complete = communicator.min(std::int64_t{stored.complete}) != 0;
  if (complete) content += file::sum_of(stored.blocks);
  ranks::expect_same_files({{path, content}}, communicator);
}

void finish_hessian_file(const std::filesystem::path& path, const Attributes& attributes, bool complete) {
  system::edit_at_once(path, matrix_in_file(path), [&](const std::filesystem::path& copy) {
    auto file = hdf5::File::open_to_write(copy);
    set_attributes(file, "/", attributes);
    if (complete) file.set_attribute("/", "complete", std::int64_t{1});
    file.set_attribute("/", sums_attribute, std::string());
    file.close();
    if (complete) write_sums(copy);
  });
}

Restored restore_damaged(const std::filesystem::path& path, const HessianLayout& layout) {
  Restored result;
  result.left = check_sums(path).damaged;
  const std::string all_sums = text("/@", sums_attribute);
  if (result.left.empty() || result.left.front() == all_sums) return result;
  const auto sums = stored_sums(path);
  system::edit_at_once(path, matrix_in_file(path), [&](const std::filesystem::path& copy) {
    auto again = copy;
    again += ".again";  // in memory, as the copy is
    {
      auto file = hdf5::File::create(again);
      create_without_rows(file, layout);
      describe(file, layout, blocks_of(layout.matrix.grid));
      create_views(file, layout);
      file.close();
    }
    const hdf5::RawFile from(again);
    hdf5::RawFile to(copy, hdf5::RawFile::Access::write);
    std::erase_if(result.left, [&](const std::string& name) {
      try {
        if (!is_again(from, name, sums)) return false;
        put_back(from, name, to);
        result.back.push_back(name);
        return true;
      } catch (const RunError&) {
        return false;  // not of what a job makes, or the damage is in the way
      }
    });
  });
  return result;
}

void reopen_hessian_file(const std::filesystem::path& path) {
  system::edit_at_once(path, matrix_in_file(path), [&](const std::filesystem::path& copy) {
    auto file = hdf5::File::open_to_write(copy);
    file.set_attribute("/", "complete", std::int64_t{0});
    if (!file.text_attribute("/", "file_id")) file.set_attribute("/", "file_id", system::random_id());
    file.close();
  });
}

}  // namespace hessian_mpi::file
