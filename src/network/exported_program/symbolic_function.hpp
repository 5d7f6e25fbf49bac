#pragma once
/// Python's arithmetic on sizes, as it stands in an exported program's graph for a network with dynamic shapes
/// (`_operator.mul` and the like). Internal to exported_program.

#include <ATen/core/ivalue.h>

#include <string_view>
#include <vector>

namespace hessian_mpi::network {

/// Takes and returns int, float (double) and bool values with the meaning they have in Python: `//` rounds down.
/// Throws std::domain_error for a division by zero, a result beyond 64 bits, or arguments of another kind.
using SymbolicFunction = c10::IValue (*)(const std::vector<c10::IValue>& arguments);

/// The function for a target such as "_operator.mul" or "torch.sym_max"; nullptr if there is none.
SymbolicFunction find_symbolic_function(std::string_view target);

}  // namespace hessian_mpi::network
