#include "hessian_mpi/after/result_file.hpp"

#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/cli/version.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"

namespace hessian_mpi::after {
std::filesystem::path name_of_result(const std::filesystem::path& source, const std::string& kind) {
  auto name = source;
  if (name.extension() == ".h5" || name.extension() == ".hdf5") name.replace_extension();
  name += '.' + kind + ".h5";
  return name;
}

ResultFile::ResultFile(const std::filesystem::path& path, bool replace, const ResultOrigin& origin,
                       const file::StoredLayout& hessian, std::uint64_t bytes, const ranks::Communicator& communicator)
    : communicator_(communicator), path_(path), replace_(replace) {
  communicator.on_root([&] {
    file::check_room_for(path, bytes, replace);
    file_ = std::make_unique<system::UnfinishedFile>(path);
    auto file = hdf5::File::create(file_->path());
    file::set_attributes(file, "/",
                         {{"format", origin.format},
                          {"format_version", std::int64_t{1}},
                          {"source", origin.source.string()},
                          {"command_line", origin.command_line},
                          {"created", cli::timestamp()},
                          {"hessian_mpi_version", cli::versions().hessian_mpi},
                          {"ranks", std::int64_t{communicator.size()}},
                          {"N", hessian.matrix.columns}});
    file.create_group("/hessian");
    file::set_attributes(file, "/hessian", hessian.attributes);
    file.close();
  });
  unfinished_ = communicator.from_root(file_ ? file_->path().string() : std::string());
}

void ResultFile::create_groups_to(hdf5::File& file, const std::string& object) const {
  for (auto at = object.find('/', 1); at != std::string::npos; at = object.find('/', at + 1)) {
    if (!file.has(object.substr(0, at))) file.create_group(object.substr(0, at));
  }
}

void ResultFile::reserve(const std::string& dataset, const std::vector<std::uint64_t>& shape) {
  communicator_.on_root([&] {
    auto file = hdf5::File::open_to_write(unfinished_);
    create_groups_to(file, dataset);
    file.create_dataset(dataset, hdf5::Type::float64, shape);
    file.close();
  });
}

void ResultFile::add(const std::string& dataset, const std::vector<std::uint64_t>& shape,
                     const std::vector<double>& numbers) {
  reserve(dataset, shape);
  communicator_.on_root([&] {
    auto file = hdf5::File::open_to_write(unfinished_);
    file.write(dataset, hdf5::Type::float64, numbers.data());
    file.close();
  });
}

void ResultFile::describe(const std::string& object, const file::Attributes& attributes) {
  communicator_.on_root([&] {
    auto file = hdf5::File::open_to_write(unfinished_);
    file::set_attributes(file, object, attributes);
    file.close();
  });
}

ResultFile::TileWriter::TileWriter(const ResultFile& file)
    : communicator_(file.communicator_), file_(file::open_together(file.unfinished_, file.communicator_)) {}

ResultFile::TileWriter::~TileWriter() {
  if (open_) file_.abandon();
}

void ResultFile::TileWriter::write(const std::string& dataset, const hdf5::Tile& tile, const double* numbers) {
  communicator_.together([&] { file_.write_tile_collectively(dataset, hdf5::Type::float64, tile, numbers); });
}

void ResultFile::TileWriter::close() {
  communicator_.together([&] { file_.close(); });
  open_ = false;
}

void ResultFile::publish(const file::Attributes& attributes) {
  auto all = attributes;
  all.emplace_back("finished", cli::timestamp());
  all.emplace_back("wall_seconds", watch_.seconds());
  describe("/", all);
  communicator_.on_root([&] {
    system::bring_to_disk(unfinished_);
    file_->publish(path_, replace_);
  });
}

}  // namespace hessian_mpi::after
