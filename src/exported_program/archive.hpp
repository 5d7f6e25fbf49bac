#pragma once
/// The zip archive of torch.export.save: JSON documents and raw tensors by name. Internal to exported_program.
/// Everything in the archive may be damaged or hostile: sizes and offsets are checked before they are used.

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace caffe2::serialize {
class PyTorchStreamReader;
}

namespace hessian_mpi {

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

  /// The document of the program: graph, signature, constraints.
  nlohmann::json program();

  /// The parameters in the order of the module's named_parameters(). The graph has another one, and lacks those that
  /// forward() does not use, where it was exported with strict=True.
  std::vector<std::string> parameter_names() const;

  /// A parameter or persistent buffer. On the CPU, contiguous in row-major order, owning its memory; two names of
  /// one tensor give the same tensor.
  torch::Tensor weight(const std::string& name);

  /// A lifted constant or a buffer that is not in the state dict; otherwise as weight().
  torch::Tensor constant(const std::string& name);

 private:
  template <class Json = nlohmann::json>
  Json document(const std::string& record);
  torch::Tensor tensor(const nlohmann::ordered_json& config, const std::string& folder, const std::string& name);
  torch::Tensor read_tensor(const std::string& record, const nlohmann::json& meta, const std::string& name);

  std::unique_ptr<caffe2::serialize::PyTorchStreamReader> reader_;
  std::string model_name_;
  nlohmann::ordered_json weights_config_;
  nlohmann::ordered_json constants_config_;
  // By record and layout: names that agree in both are names of one tensor.
  std::map<std::pair<std::string, std::string>, torch::Tensor> tensors_;
};

}  // namespace hessian_mpi
