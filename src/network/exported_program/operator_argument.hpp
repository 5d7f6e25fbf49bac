#pragma once
/// Values of an exported program as LibTorch's operators want them when they are called boxed. Internal to
/// exported_program.

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

#include <vector>

namespace hessian_mpi::network {

/// The value in the type that the schema's argument has, by the rules of Python's argument parser: an int where a float
/// is wanted becomes one, a number where a tensor is wanted becomes a 0-dimensional tensor that does not take part in
/// type promotion. Throws std::invalid_argument if the argument cannot take the value.
c10::IValue to_operator_argument(const c10::IValue& value, const c10::Argument& argument);

/// The same for a list of values.
c10::IValue to_operator_argument(const std::vector<c10::IValue>& values, const c10::Argument& argument);

}  // namespace hessian_mpi::network
