#pragma once
/// The zip archive of torch.export.save: JSON documents and raw tensors by name. Internal to exported_program.
/// Everything in the archive may be damaged or hostile: sizes and offsets are checked before they are used.

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace caffe2::serialize {
class PyTorchStreamReader;
}

namespace hessian_mpi::network {

/// A signed 64-bit integer from JSON. Throws InputError for anything else (fractions, too large, text).
std::int64_t integer_from(const nlohmann::json& value);

/// The dtype for a number of torch.export's own ScalarType enumeration, which is not c10's. Throws InputError.
torch::Dtype dtype_from(const nlohmann::json& value);

/// One opened archive with the one program in it, all of its members compared with their checksums. Throws InputError
/// (without the file's name) or, for a broken zip, c10::Error. Tensors keep the requires_grad that the file records.
class ExportedArchive {
 public:
  explicit ExportedArchive(const std::filesystem::path& file);
  ~ExportedArchive();
  ExportedArchive(const ExportedArchive&) = delete;
  ExportedArchive& operator=(const ExportedArchive&) = delete;

  /// The document of the program: graph, signature, constraints.
  nlohmann::json program();

  /// The parameters in the order of the module's named_parameters(). The graph has another one, and lacks those that
  /// forward() does not use, where it was exported with strict=True. Files of PyTorch 2.8 tell parameters from buffers
  /// by requires_grad alone: used are those that the graph takes as parameters, among which frozen ones are found.
  std::vector<std::string> parameter_names(const std::set<std::string>& used) const;

  /// Of all parameters and persistent buffers, those that nothing uses among them.
  std::vector<std::string> weight_names() const;

  /// What weight() has given for the name, or for another one of the same tensor; none where it was not asked.
  const torch::Tensor* known_weight(const std::string& name) const;

  /// A parameter or persistent buffer. On the CPU, contiguous in row-major order, owning its memory; two names of
  /// one tensor give the same tensor.
  torch::Tensor weight(const std::string& name);

  /// A lifted constant or a buffer that is not in the state dict; otherwise as weight().
  torch::Tensor constant(const std::string& name);

 private:
  /// One of the two folders of tensors.
  struct Folder {
    std::string path;                                            ///< "data/weights/"
    nlohmann::ordered_json config;                               ///< null in files of PyTorch 2.8
    std::vector<std::pair<std::string, torch::Tensor>> pickled;  ///< what such files hold instead
  };

  template <class Json = nlohmann::json>
  Json document(const std::string& record);
  Folder folder(const std::string& kind);
  torch::Tensor tensor(const Folder& folder, const std::string& name);
  torch::Tensor read_tensor(const std::string& record, const nlohmann::json& meta, const std::string& name);

  std::unique_ptr<caffe2::serialize::PyTorchStreamReader> reader_;
  std::string model_name_;
  Folder weights_;
  Folder constants_;
  // By record and layout: names that agree in both are names of one tensor.
  std::map<std::pair<std::string, std::string>, torch::Tensor> tensors_;
};

}  // namespace hessian_mpi::network
