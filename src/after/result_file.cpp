#include "hessian_mpi/after/result_file.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/timestamp.hpp"
#include "hessian_mpi/cli/version.hpp"
#include "hessian_mpi/file/parameter_names.hpp"
#include "hessian_mpi/ranks/one_folder.hpp"

namespace hessian_mpi::after {
std::filesystem::path name_of_result(const std::filesystem::path& source, const std::string& kind) {
  auto name = source;
  for (const auto* ending : {".h5", ".hdf5", ".pt2", ".pt"}) {
    if (name.extension() != ending) continue;
    name.replace_extension();
    break;
  }
  name += '.' + kind + ".h5";
  return name;
}

ResultFile::ResultFile(const std::filesystem::path& path, bool replace, const ResultOrigin& origin,
                       const file::StoredLayout& hessian, std::uint64_t bytes, const ranks::Communicator& communicator)
    : communicator_(communicator), path_(path), replace_(replace) {
  communicator.on_root([&] { file::check_room_for(path, bytes, replace); });
  ranks::expect_one_folder(path, communicator);
  communicator.on_root([&] {
    file_ = std::make_unique<system::UnfinishedFile>(path);
    system::make_at_once(file_->path(), [&](const std::filesystem::path& in_memory) {
      auto file = hdf5::File::create(in_memory);
      file::set_attributes(file, "/",
                           {{"format", origin.format},
                            {"format_version", std::int64_t{1}},
                            {"source", origin.source.string()},
                            {"source_file_id", hessian.file_id},
                            {"source_sum", file::sum_of(hessian.blocks)},
                            {"command_line", origin.command_line},
                            {"created", timestamp()},
                            {"hessian_mpi_version", cli::versions().hessian_mpi},
                            {"ranks", std::int64_t{communicator.size()}},
                            {"N", hessian.matrix.columns}});
      file.create_group("/hessian");
      file::set_attributes(file, "/hessian", hessian.attributes);
      // Of a network: there is no file that has them.
      if (hessian.blocks.empty() && hessian.matrix.columns == hessian.index.size())
        file::name_parameters(file, "/hessian", hessian.index);
      file.close();
    });
    // Large datasets begin at multiples of 1 MiB, and no result has more than three; 1 MiB for all the small ones.
    constexpr std::uint64_t mebibyte = 1 << 20;
    const auto all = bytes + std::min(bytes, 3 * mebibyte) + mebibyte;
    if (const int error = system::PosixFile(file_->path(), O_RDWR).take_space(0, all, /*grow=*/false); error != 0) {
      const auto words = text("no room for '", path.string(), "': ", system::reason(error));
      if (error == EFBIG) throw RunError(words + ", as `ulimit -f` or the file system says");
      throw InputError(words);
    }
  });
  unfinished_ = communicator.from_root(file_ ? file_->path().string() : std::string());
}

void ResultFile::edit(const std::function<void(hdf5::File& file)>& change) {
  system::edit_unfinished(unfinished_, numbers_, [&](const std::filesystem::path& in_memory) {
    auto file = hdf5::File::open_to_write(in_memory);
    change(file);
    file.close();
  });
}

system::Extent ResultFile::create_dataset(const std::string& dataset, const std::vector<std::uint64_t>& shape) {
  system::Extent place;
  edit([&](hdf5::File& file) {
    for (auto at = dataset.find('/', 1); at != std::string::npos; at = dataset.find('/', at + 1)) {
      if (!file.has(dataset.substr(0, at))) file.create_group(dataset.substr(0, at));
    }
    file.create_dataset(dataset, hdf5::Type::float64, shape);
    place = {file.offset_in_file(dataset), file.stored_bytes(dataset).value_or(0)};
  });
  const auto after = [](const system::Extent& a, const system::Extent& b) { return a.offset < b.offset; };
  numbers_.insert(std::upper_bound(numbers_.begin(), numbers_.end(), place, after), place);
  return place;
}

void ResultFile::reserve(const std::string& dataset, const std::vector<std::uint64_t>& shape) {
  communicator_.on_root([&] { create_dataset(dataset, shape); });
}

void ResultFile::add(const std::string& dataset, const std::vector<std::uint64_t>& shape,
                     const std::vector<double>& numbers) {
  communicator_.on_root([&] {
    const auto place = create_dataset(dataset, shape);
    system::PosixFile(unfinished_, O_RDWR).write(place.offset, numbers.data(), place.bytes);
  });
}

void ResultFile::describe(const std::string& object, const file::Attributes& attributes) {
  communicator_.on_root([&] { edit([&](hdf5::File& file) { file::set_attributes(file, object, attributes); }); });
}

ResultFile::TileWriter::TileWriter(const ResultFile& file, const std::string& dataset)
    : communicator_(file.communicator_),
      file_(communicator_.together([&] { return system::PosixFile(file.unfinished_, O_RDWR); })) {
  communicator_.together([&] {
    const auto opened = hdf5::File::open_to_read(file.unfinished_);
    offset_ = opened.offset_in_file(dataset);
    columns_ = opened.shape(dataset).at(1);
  });
}

void ResultFile::TileWriter::write(const hdf5::Tile& tile, const double* numbers) {
  communicator_.together([&] {
    const bool whole = tile.columns == columns_;  // rows that lie one after the other
    const auto pieces = whole ? std::min<std::uint64_t>(tile.rows, 1) : tile.rows;
    const auto count = whole ? tile.rows * tile.columns : tile.columns;
    for (std::uint64_t k = 0; k < pieces; ++k) {
      const auto at = (tile.row + k) * columns_ + tile.column;
      file_.write(offset_ + at * sizeof(double), numbers + k * count, count * sizeof(double));
    }
  });
}

void ResultFile::TileWriter::finish() {
  communicator_.together([&] { file_.sync_data(); });
}

void ResultFile::publish(const file::Attributes& attributes) {
  auto all = attributes;
  all.emplace_back("finished", timestamp());
  all.emplace_back("wall_seconds", watch_.seconds());
  describe("/", all);
  communicator_.on_root([&] {
    const system::PosixFile file(unfinished_, O_RDWR);
    file.resize(file.size());  // gives back the space that was taken and not needed
    file.sync_data();
    file_->publish(path_, replace_);
  });
}

}  // namespace hessian_mpi::after
