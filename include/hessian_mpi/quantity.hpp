#pragma once
/// Bytes and seconds in words. No dependencies.

#include <cstdint>
#include <string>

namespace hessian_mpi {

/// "850 B", "2.18 GB": bytes for a person.
std::string text_of_bytes(std::uint64_t bytes);
/// "4 s", "1 min 05 s", "2 h 03 min": a span of time for a person.
std::string text_of_seconds(double seconds);

}  // namespace hessian_mpi
