#pragma once
/// Which of LibTorch's operators a network from somebody else's hands may call: those that compute with tensors and do
/// nothing else.

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

#include <array>
#include <optional>
#include <string>

namespace hessian_mpi::network {

/// Why an operator such as "aten::from_file" must not be called, in words that go on from its name: "reads and writes
/// files"; nothing where it may be.
std::optional<std::string> reason_against_operator(const std::string& name);

/// Of those, the ones that read or write files.
inline constexpr std::array<const char*, 2> operators_on_files{"aten::from_file", "aten::save"};

/// Whether the constant is one of those that the argument has names for: a dtype, a layout or a memory format is an
/// integer by the time it is called with, which LibTorch uses as an index. True for arguments of other types.
bool is_known_constant(const c10::IValue& constant, const c10::Argument& argument);

}  // namespace hessian_mpi::network
