#pragma once
/// Bytes and seconds as people write and read them.

#include <cstdint>
#include <optional>
#include <string>

namespace hessian_mpi {

/// "850 B", "2.18 GB": bytes for a person.
std::string text_of_bytes(std::uint64_t bytes);
/// "4 s", "1 min 05 s", "2 h 03 min": a span of time for a person.
std::string text_of_seconds(double seconds);

/// "3600", "30:00", "1:00:00", "2-12:00:00": seconds of a time as Slurm writes them; nothing for "UNLIMITED". Throws
/// InputError.
std::optional<double> parse_time(const std::string& word);

/// "512M", "2G", "1.5G", "4096": bytes, in powers of 1024. Throws InputError.
std::uint64_t parse_bytes(const std::string& word);

}  // namespace hessian_mpi
