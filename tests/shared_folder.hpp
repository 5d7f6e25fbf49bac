#pragma once
/// A folder that all ranks of a test write to.

#include <unistd.h>

#include <filesystem>

#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi {

/// A new folder of the system's folder for temporary files, removed with all it holds when root's object goes. Making
/// and destroying one is collective.
class SharedFolder {
 public:
  explicit SharedFolder(const ranks::Communicator& communicator) : communicator_(communicator) {
    std::string name = (std::filesystem::temp_directory_path() / "hessian_mpi_XXXXXX").string();
    communicator.on_root([&] {
      if (mkdtemp(name.data()) == nullptr) throw RunError("no folder for the test: " + name);
    });
    path_ = communicator.from_root(name);
  }
  ~SharedFolder() {
    communicator_.wait_for_all();
    std::error_code ignored;
    if (communicator_.is_root()) std::filesystem::remove_all(path_, ignored);
  }
  SharedFolder(const SharedFolder&) = delete;
  SharedFolder& operator=(const SharedFolder&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  const ranks::Communicator& communicator_;
  std::filesystem::path path_;
};

}  // namespace hessian_mpi
