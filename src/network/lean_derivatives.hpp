#pragma once
/// Operators of LibTorch whose second derivative takes dozens of operators there and few here: activations, products of
/// matrices, softmax and norms. A pass for rows runs through these derivatives, again and again on one graph: what does
/// not depend on the cotangent is computed once for each graph.

#include <torch/library.h>

namespace hessian_mpi::network {

/// Puts them in the place of LibTorch's for the library's dispatch key, one of autograd. Values and derivatives of any
/// order are the same to rounding.
void register_lean_derivatives(torch::Library& library);

}  // namespace hessian_mpi::network
