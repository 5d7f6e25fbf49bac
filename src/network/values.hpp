#pragma once
/// Parameters and buffers from another file than the network's.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/network/model.hpp"

namespace hessian_mpi::network {

struct StateDict {
  std::vector<NamedTensor> tensors;
  std::string key;  ///< under which it stood in the file; empty where the file is nothing else
};

/// Reads a state_dict onto the CPU: torch.save, by itself or in a checkpoint under a usual key, or safetensors; what
/// the file holds decides, not its name. Nothing in it runs. Everything in it may be damaged or hostile. Throws
/// InputError naming the file.
StateDict load_state_dict(const std::filesystem::path& file);

/// Both without the file's name in errors. Is the file safetensors: said by its first bytes.
bool is_safetensors(const std::filesystem::path& file);
std::vector<NamedTensor> load_safetensors(const std::filesystem::path& file);
StateDict load_pickled_state_dict(const std::filesystem::path& file);

/// Puts the values of a file in the place of the model's, in the dtypes that it has been converted to. Names may have a
/// prefix in common that the model's have not, such as "module.". Returns what the user may not expect. Throws
/// InputError naming the file: names that are missing or not expected, other shapes, other kinds of numbers, tied
/// tensors of unequal values; where no precision is given, numbers that the model's dtype rounds.
std::vector<std::string> set_values(Model& model, const std::filesystem::path& file, std::optional<Precision> given);

}  // namespace hessian_mpi::network
