#pragma once
/// What an exported program takes, and the check of what it is given. Internal to exported_program.

#include <ATen/core/ivalue.h>
#include <torch/types.h>

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "exported_program/guard.hpp"

namespace hessian_mpi::network {

/// One extent of an input: fixed at export, a symbol that may occur elsewhere too, or (neither) an expression.
struct Extent {
  std::optional<std::int64_t> fixed;
  std::string symbol;
};

/// Extents that a symbol may have.
struct Range {
  std::int64_t least = 0;
  std::optional<std::int64_t> most;
};

struct ExpectedInput {
  enum class Kind { tensor, integer, real };
  std::string name;
  Kind kind = Kind::tensor;
  torch::Dtype dtype = torch::kFloat32;  ///< of a tensor
  std::vector<Extent> shape;             ///< of a tensor
};

/// The user's inputs in the order of forward()'s arguments, those in tuples, lists and dicts one by one; what was fixed
/// at export (numbers, None) is not among them.
class ExpectedInputs {
 public:
  void add_tensor(const std::string& name, const nlohmann::json& meta);
  void add_number(const std::string& name, ExpectedInput::Kind kind);
  /// One that was fixed at export.
  void add_constant() { positions_.emplace_back(); }
  /// The "range_constraints" of the program.
  void set_ranges(const nlohmann::json& constraints);
  /// The "guards_code" of the program, once all inputs are known. Throws InputError for one that is not understood.
  void set_guards(const nlohmann::json& guards);
  std::size_t count() const { return inputs_.size(); }
  std::vector<std::string> names() const;
  /// The floating dtypes that tensors had at export.
  std::vector<torch::Dtype> dtypes() const;

  /// The arguments, numbers as such even where they came as tensors of one element. Throws InputError for a wrong
  /// number of them, a wrong kind or shape: it says what the program takes and, where an extent was fixed at export,
  /// how to export it otherwise. So it does for sizes with which forward() would have taken another way.
  std::vector<c10::IValue> checked(const std::vector<c10::IValue>& arguments) const;

 private:
  std::string description() const;
  std::string batch_advice() const;
  void check_tensor(const ExpectedInput& input, const torch::Tensor& given,
                    std::map<std::string, std::int64_t>& symbols) const;

  std::optional<std::size_t> find(const std::vector<std::string>& path) const;
  void check_guards(const std::vector<c10::IValue>& values) const;
  void add(ExpectedInput input);

  std::vector<ExpectedInput> inputs_;
  std::vector<std::optional<std::size_t>> positions_;  ///< of all arguments of forward(): which of inputs_
  std::vector<Guard> guards_;
  std::map<std::string, Range> ranges_;
};

}  // namespace hessian_mpi::network
