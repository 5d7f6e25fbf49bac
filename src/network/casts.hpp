#pragma once
/// The dtypes that a network's code names, and which of them it computes in.

#include <ATen/core/Tensor.h>
#include <torch/types.h>

#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/network/model.hpp"

namespace hessian_mpi::network {

/// What takes the place of a dtype in the code of a network that was converted: for the dtype of its parameters the one
/// that they have now; in float64 for narrower ones, casts, float64 too, unless these are kept. All others stay.
class Casts {
 public:
  Casts() = default;
  /// of_file: dtypes that the parameters have in the file.
  Casts(std::vector<torch::Dtype> of_file, torch::Dtype now, bool kept);

  torch::Dtype in_place_of(torch::Dtype named) const;
  /// Of a buffer or constant: that of the parameters, except what is narrower in the file, where casts are kept.
  torch::Dtype of_state(torch::Dtype own) const;
  /// Whether the dtype is narrower than that of the parameters in the file, and float64 takes its place.
  bool widens(torch::Dtype named) const;
  bool are_all_wide() const { return wide_; }
  bool has_parameters() const { return !of_file_.empty(); }
  bool leave_all_as_it_is() const { return !wide_ && (of_file_.empty() || of_file_ == std::vector{now_}); }
  /// Where the network was converted, what has no dtype in the code is of the dtype of parameters too.
  std::optional<torch::Dtype> default_dtype() const;

 private:
  bool is_of_file(torch::Dtype named) const;

  std::vector<torch::Dtype> of_file_;
  torch::Dtype now_ = torch::kFloat32;
  bool wide_ = false;
  bool kept_ = false;
};

/// The floating dtypes of tensors.
std::vector<torch::Dtype> dtypes_of(const std::vector<NamedTensor>& tensors);

/// The dtype that a buffer or constant has in the file.
struct NamedDtype {
  std::string name;
  torch::Dtype dtype;
};

/// While it lives, the operators that this thread calls compute in the dtypes that `casts` says, in all formats of
/// models: LibTorch's dispatcher hands over what has a dtype among its arguments, wherever the code has it from. What
/// an operator calls in its turn stays as it is.
class CastsInEffect {
 public:
  explicit CastsInEffect(const Casts& casts);
  ~CastsInEffect();
  CastsInEffect(const CastsInEffect&) = delete;
  CastsInEffect& operator=(const CastsInEffect&) = delete;

  /// Those of the innermost on this thread; none where there are none.
  static const Casts* current();

 private:
  const Casts* before_;
  at::ScalarType default_before_;
};

/// While it lives, operators that this thread calls come from that line of Python. Where no one says so it is the line
/// of TorchScript that runs.
class LineOfPython {
 public:
  explicit LineOfPython(const std::string& line);
  ~LineOfPython();
  LineOfPython(const LineOfPython&) = delete;
  LineOfPython& operator=(const LineOfPython&) = delete;

 private:
  const std::string* before_;
};

/// Notes what narrower dtypes float64 has taken the place of on this thread while it lives. One at a time on a thread.
class WidenedCasts {
 public:
  WidenedCasts();
  ~WidenedCasts();
  WidenedCasts(const WidenedCasts&) = delete;
  WidenedCasts& operator=(const WidenedCasts&) = delete;

  /// A sentence that names operators and their lines; nothing where there were none.
  std::optional<std::string> cure() const;
  /// What has an effect on no operator's dtype, such as autocast.
  static void note(const std::string& what);
  static void note(const std::vector<NamedDtype>& state, const Casts& casts);

 private:
  std::vector<std::string> found_;
};

}  // namespace hessian_mpi::network
