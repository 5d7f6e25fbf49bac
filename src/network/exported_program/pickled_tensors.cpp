#include "exported_program/pickled_tensors.hpp"

#include <ATen/ATen.h>
#include <caffe2/serialize/inline_container.h>
#include <sys/mman.h>
#include <torch/csrc/jit/serialization/import_read.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <map>
#include <system_error>
#include <tuple>

#include "archive_check.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"

namespace hessian_mpi::network {
namespace {

/// Bytes under a path, for what reads files: they lie in memory alone.
class MemoryFile {
 public:
  explicit MemoryFile(std::string_view bytes) : descriptor_(memfd_create("tensors", MFD_CLOEXEC)) {
    if (descriptor_ < 0) throw std::system_error(errno, std::generic_category(), "memfd_create");
    for (std::size_t written = 0; written < bytes.size();) {
      const ssize_t now = write(descriptor_, bytes.data() + written, bytes.size() - written);
      if (now < 0) {
        const int error = errno;
        close(descriptor_);
        throw std::system_error(error, std::generic_category(), "write");
      }
      written += static_cast<std::size_t>(now);
    }
  }
  ~MemoryFile() { close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::filesystem::path path() const { return text("/proc/self/fd/", descriptor_); }

 private:
  int descriptor_;
};

c10::IValue unpickled(const std::filesystem::path& path) {
  check_archive(path);
  caffe2::serialize::PyTorchStreamReader archive(path.string());
  check_pickle(archive, "data.pkl", "data");
  return torch::jit::readArchiveAndTensors("data", "", "", std::nullopt, std::nullopt, torch::kCPU, archive);
}

torch::Tensor checked_tensor(const std::string& name, const c10::IValue& value) {
  if (!value.isTensor()) throw InputError(text("keeps '", printable(name), "', which is not a tensor"));
  const torch::Tensor& tensor = value.toTensor();
  if (tensor.layout() != torch::kStrided || tensor.is_quantized() || !tensor.is_cpu()) {
    throw InputError(text("tensor '", printable(name), "': it is sparse, quantized or without values"));
  }
  if (!lies_in_its_storage(tensor)) {
    throw InputError(text("tensor '", printable(name), "': its sizes and strides need more bytes than the file has"));
  }
  return tensor.detach().clone(at::MemoryFormat::Contiguous).set_requires_grad(tensor.requires_grad());
}

/// Where a tensor lies: names that agree in it are names of one tensor. One without elements lies nowhere, and what is
/// no tensor has no place; they are told apart by their names.
using Place = std::tuple<std::string, const void*, std::int64_t, std::vector<std::int64_t>, std::vector<std::int64_t>>;

Place place_of(const std::string& name, const c10::IValue& value) {
  const torch::Tensor tensor = value.isTensor() ? value.toTensor() : torch::Tensor{};
  const bool lies = tensor.defined() && tensor.layout() == torch::kStrided && tensor.numel() > 0;
  if (!lies) return {name, nullptr, 0, {}, {}};
  return {"", tensor.storage().data(), tensor.storage_offset(), tensor.sizes().vec(), tensor.strides().vec()};
}

}  // namespace

std::vector<std::pair<std::string, torch::Tensor>> pickled_tensors(std::string_view bytes) {
  if (bytes.empty()) return {};  // nothing to keep
  const MemoryFile file(bytes);
  const c10::IValue content = unpickled(file.path());
  if (!content.isGenericDict()) throw InputError("keeps its tensors in something else than a dict");
  std::vector<std::pair<std::string, torch::Tensor>> tensors;
  std::map<Place, torch::Tensor> known;
  for (const auto& entry : content.toGenericDict()) {
    if (!entry.key().isString()) throw InputError("keeps a tensor without a name");
    const std::string& name = entry.key().toStringRef();
    torch::Tensor& tensor = known[place_of(name, entry.value())];
    if (!tensor.defined()) tensor = checked_tensor(name, entry.value());
    tensors.emplace_back(name, tensor);
  }
  return tensors;
}

}  // namespace hessian_mpi::network
