#pragma once
/// Bytes and seconds in words.

#include <cstdint>
#include <string>

namespace hessian_mpi {

/// "850 B", "2.18 GB": bytes for a person.
std::string text_of_bytes(std::uint64_t bytes);
/// "4 s", "1 min 05 s", "2 h 03 min": a span of time for a person.
std::string text_of_seconds(double seconds);
/// "512M", "2G", "1.5G", "4096": bytes, in powers of 1024. Throws InputError.
std::uint64_t parse_bytes(const std::string& text);

}  // namespace hessian_mpi
