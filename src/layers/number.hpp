#pragma once
/// The numbers that factors are made of, in LibTorch's words. Internal to the factored engine.

#include <c10/core/ScalarType.h>

#include <type_traits>

namespace hessian_mpi::layers {

template <class Number>
constexpr c10::ScalarType dtype_of_number = std::is_same_v<Number, float> ? c10::kFloat : c10::kDouble;

/// Instantiates what makes rows of numbers Out from factors of Number, for each two of them.
#define HESSIAN_MPI_FOR_NUMBERS(instantiate) \
  instantiate(float, float);                 \
  instantiate(float, double);                \
  instantiate(double, float);                \
  instantiate(double, double)

}  // namespace hessian_mpi::layers
