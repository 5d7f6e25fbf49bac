#include "hessian_mpi/hessian_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>

#include "hessian_mpi/error.hpp"
#include "hessian_mpi/node.hpp"

namespace hessian_mpi {
namespace {

constexpr const char* format_name = "hessian_mpi";
constexpr std::int64_t format_version = 1;
// What metadata, parameters and gradient take at most beside the matrix, roughly: it decides a warning, not a layout.
constexpr std::uint64_t metadata_allowance = 1 << 20;

std::string reason(int error) {
  return std::generic_category().message(error);
}

std::string human(std::uint64_t bytes) {
  std::array<char, 32> number{};
  std::snprintf(number.data(), number.size(), "%.2f GB", static_cast<double>(bytes) / 1e9);
  return number.data();
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

void throw_no_room(const std::filesystem::path& path, std::uint64_t needed) {
  throw InputError(text("no room for '", path.string(), "': the matrix takes ", human(needed), ", the file system of '",
                        folder_of(path).string(), "' has ", human(free_disk(folder_of(path))),
                        " left; use --output on a larger one, --storage float32, or --parameters for a part"));
}

void throw_exists(const std::filesystem::path& path) {
  throw InputError(text("'", path.string(),
                        "' exists already; name another file with --output, or replace it with "
                        "--overwrite"));
}

// Waits until the file's bytes are on the disk.
void sync(const std::filesystem::path& path) {
  const Descriptor file(path);
  if (file.id() < 0 || fsync(file.id()) != 0) {
    throw RunError(text("'", path.string(), "' could not be brought to the disk: ", reason(errno)));
  }
}

// Takes the matrix's space from the disk now, so that a full disk is found before hours of computing. Where the file
// system cannot do that in advance (NFS before 4.2), it is found when it happens.
void take_space(const std::filesystem::path& file, const std::filesystem::path& named, std::uint64_t offset,
                std::uint64_t bytes) {
  const Descriptor descriptor(file);
  if (descriptor.id() < 0) throw RunError(text("'", file.string(), "' could not be opened: ", reason(errno)));
  if (fallocate(descriptor.id(), 0, static_cast<off_t>(offset), static_cast<off_t>(bytes)) == 0) return;
  if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG) throw_no_room(named, bytes);
  if (errno != EOPNOTSUPP && errno != ENOSYS) {
    throw InputError(text("no space could be taken for '", named.string(), "': ", reason(errno)));
  }
}

// Removes a file that did not come to be whole.
class UnfinishedFile {
 public:
  explicit UnfinishedFile(std::filesystem::path path) : path_(std::move(path)) {}
  ~UnfinishedFile() { ::unlink(path_.c_str()); }
  UnfinishedFile(const UnfinishedFile&) = delete;
  UnfinishedFile& operator=(const UnfinishedFile&) = delete;
  const std::filesystem::path& path() const { return path_; }

  // Gives the file its real name.
  void publish(const std::filesystem::path& name, bool replace) const {
    const unsigned flags = replace ? 0 : RENAME_NOREPLACE;
    if (renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, name.c_str(), flags) == 0) return;
    if (errno == EEXIST) throw_exists(name);
    // File systems without the flag: look first, and accept that another program may come between.
    if (errno == EINVAL && !std::filesystem::exists(name) && ::rename(path_.c_str(), name.c_str()) == 0) return;
    throw InputError(text("'", name.string(), "' cannot be created: ", reason(errno)));
  }

 private:
  std::filesystem::path path_;
};

hdf5::Type type_of(Precision storage) {
  return storage == Precision::float32 ? hdf5::Type::float32 : hdf5::Type::float64;
}

void set_attributes(hdf5::File& file, const Attributes& attributes) {
  for (const auto& [name, value] : attributes) {
    std::visit([&, &key = name](const auto& v) { file.set_attribute("/", key, v); }, value);
  }
}

void describe_parameters(hdf5::File& file, const ParameterIndex& index) {
  std::vector<std::string> names;
  std::vector<std::string> shapes;
  std::vector<std::int64_t> offsets;
  std::vector<std::int64_t> sizes;
  std::vector<std::int64_t> dimensions;
  std::size_t most_dimensions = 0;
  for (const auto& entry : index.entries()) {
    names.push_back(entry.name);
    shapes.push_back(text_of_shape(entry.shape));
    offsets.push_back(entry.offset);
    sizes.push_back(entry.size);
    dimensions.push_back(static_cast<std::int64_t>(entry.shape.size()));
    most_dimensions = std::max(most_dimensions, entry.shape.size());
  }
  file.set_attribute("/hessian", "parameter_names", names);
  file.set_attribute("/hessian", "parameter_offsets", offsets);
  file.set_attribute("/hessian", "parameter_sizes", sizes);
  file.set_attribute("/hessian", "parameter_shapes", shapes);

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

void describe_blocks(hdf5::File& file, const BlockGrid& grid) {
  std::vector<std::int64_t> begin;
  std::vector<std::int64_t> end;
  for (std::int64_t b = 0; b < grid.count(); ++b) {
    begin.push_back(grid.block(b).begin);
    end.push_back(grid.block(b).end);
  }
  for (const auto& [name, values] : {std::pair{"/blocks/begin", &begin}, {"/blocks/end", &end}}) {
    file.create_dataset(name, hdf5::Type::int64, {begin.size()});
    file.write(name, hdf5::Type::int64, values->data());
  }
  const std::vector<std::uint64_t> none(begin.size(), 0);
  file.create_dataset("/blocks/checksum", hdf5::Type::uint64, {begin.size()});
  file.write("/blocks/checksum", hdf5::Type::uint64, none.data());
}

// Writes everything but the rows; returns where the matrix lies in the file.
std::uint64_t write_layout(const std::filesystem::path& path, const HessianLayout& layout) {
  auto file = hdf5::File::create(path);
  const auto n = static_cast<std::uint64_t>(layout.index.size());
  for (const auto* group : {"/parameters", "/blocks"}) file.create_group(group);
  file.create_dataset("/hessian", type_of(layout.storage), {n, n});
  describe_parameters(file, layout.index);
  describe_blocks(file, layout.grid);
  for (const auto& [name, values] : {std::pair{"/parameters/value", &layout.value}, {"/gradient", &layout.gradient}}) {
    file.create_dataset(name, type_of(layout.dtype), {n});
    file.write(name, hdf5::Type::float64, values->data());
  }
  file.set_attribute("/", "format", std::string(format_name));
  file.set_attribute("/", "format_version", format_version);
  file.set_attribute("/", "complete", std::int64_t{0});
  set_attributes(file, layout.attributes);
  const auto offset = file.offset_in_file("/hessian");
  file.close();
  return offset;
}

}  // namespace

std::uint64_t matrix_bytes(std::int64_t rows, Precision storage) {
  const auto n = static_cast<std::uint64_t>(rows);
  return n * n * bytes_of(storage);
}

void check_room_for(const std::filesystem::path& path, std::uint64_t bytes, bool replace) {
  const auto folder = folder_of(path);
  if (!std::filesystem::is_directory(folder)) {
    throw InputError(text("the folder '", folder.string(), "' of --output does not exist"));
  }
  if (std::filesystem::is_directory(path)) throw InputError(text("--output '", path.string(), "' is a folder"));
  if (!replace && std::filesystem::exists(std::filesystem::symlink_status(path))) throw_exists(path);
  if (::access(folder.c_str(), W_OK | X_OK) != 0) {
    throw InputError(text("no file can be made in the folder '", folder.string(), "' of --output: ", reason(errno)));
  }
  if (free_disk(folder) < bytes + metadata_allowance) throw_no_room(path, bytes);
}

void create_hessian_file(const std::filesystem::path& path, const HessianLayout& layout, bool replace) {
  const auto bytes = matrix_bytes(layout.index.size(), layout.storage);
  check_room_for(path, bytes, replace);
  const UnfinishedFile file(folder_of(path) / text('.', path.filename().string(), ".new-", ::getpid()));
  const auto offset = write_layout(file.path(), layout);
  take_space(file.path(), path, offset, bytes);
  sync(file.path());
  file.publish(path, replace);
}

Descriptor::Descriptor(const std::filesystem::path& path) : id_(::open(path.c_str(), O_RDWR | O_CLOEXEC)) {}

Descriptor::Descriptor(Descriptor&& other) noexcept : id_(std::exchange(other.id_, -1)) {}

Descriptor::~Descriptor() {
  if (id_ >= 0) ::close(id_);
}

EarlyWriteback::EarlyWriteback(const std::filesystem::path& path) : path_(path), descriptor_(path) {
  if (descriptor_.id() < 0) throw RunError(text("'", path.string(), "' could not be opened: ", reason(errno)));
}

void EarlyWriteback::start(std::uint64_t offset, std::uint64_t bytes) {
  finish();
  offset_ = offset;
  bytes_ = bytes;
  // File systems that cannot do this write back when they like, and all have to at the last sync.
  sync_file_range(descriptor_.id(), static_cast<off64_t>(offset), static_cast<off64_t>(bytes), SYNC_FILE_RANGE_WRITE);
}

void EarlyWriteback::finish() {
  if (bytes_ == 0) return;
  const auto offset = static_cast<off64_t>(offset_);
  const auto bytes = static_cast<off64_t>(std::exchange(bytes_, 0));
  constexpr unsigned until_written = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
  if (sync_file_range(descriptor_.id(), offset, bytes, until_written) != 0 &&
      (errno == EIO || errno == ENOSPC || errno == EDQUOT)) {
    throw RunError(text("rows of '", path_.string(), "' did not reach the disk: ", reason(errno)));
  }
  posix_fadvise(descriptor_.id(), offset, bytes, POSIX_FADV_DONTNEED);
}

HessianWriter::HessianWriter(const std::filesystem::path& path, std::int64_t columns, Precision storage,
                             const Communicator& communicator)
    : file_(communicator.together([&] { return hdf5::File::open_parallel(path, communicator.handle()); })),
      offset_(communicator.together([&] { return file_.offset_in_file("/hessian"); })),
      writeback_(communicator.together([&] { return EarlyWriteback(path); })),
      columns_(columns),
      storage_(storage),
      communicator_(communicator) {}

void HessianWriter::write(const Rows& rows, const void* numbers) {
  // A rank that failed before the collective call would leave the others waiting in it.
  communicator_.together([&] {
    if (rows.begin < 0 || rows.end < rows.begin || rows.end > columns_) {
      throw RunError(text("rows ", rows.begin, " to ", rows.end, " are not rows of a matrix with ", columns_));
    }
  });
  communicator_.together([&] {
    const hdf5::Tile tile{static_cast<std::uint64_t>(rows.begin), 0, static_cast<std::uint64_t>(rows.count()),
                          static_cast<std::uint64_t>(columns_)};
    file_.write_tile_collectively("/hessian", type_of(storage_), tile, numbers);
    const auto row_bytes = tile.columns * bytes_of(storage_);
    if (tile.rows > 0) writeback_.start(offset_ + tile.row * row_bytes, tile.rows * row_bytes);
  });
}

void HessianWriter::close() {
  communicator_.together([&] { writeback_.finish(); });
  communicator_.together([&] { file_.close(); });
  // Every node brings its own cache to the disk.
  communicator_.together([&] {
    if (communicator_.rank_on_node() == 0) sync(file_.path());
  });
}

std::vector<double> HessianReader::tile(const hdf5::Tile& tile) const {
  std::vector<double> numbers(tile.rows * tile.columns);
  file_.read_tile("/hessian", hdf5::Type::float64, tile, numbers.data());
  return numbers;
}

std::vector<char> HessianReader::bytes(const Rows& rows, std::int64_t columns, Precision storage) const {
  const hdf5::Tile tile{static_cast<std::uint64_t>(rows.begin), 0, static_cast<std::uint64_t>(rows.count()),
                        static_cast<std::uint64_t>(columns)};
  std::vector<char> buffer(tile.rows * tile.columns * bytes_of(storage));
  file_.read_tile("/hessian", type_of(storage), tile, buffer.data());
  return buffer;
}

void finish_hessian_file(const std::filesystem::path& path, const std::vector<std::uint64_t>& checksums,
                         const Attributes& attributes, bool complete) {
  auto file = hdf5::File::open_to_write(path);
  file.write("/blocks/checksum", hdf5::Type::uint64, checksums.data());
  set_attributes(file, attributes);
  file.close();
  sync(path);
  if (!complete) return;
  auto finished = hdf5::File::open_to_write(path);
  finished.set_attribute("/", "complete", std::int64_t{1});
  finished.close();
  sync(path);
}

}  // namespace hessian_mpi
