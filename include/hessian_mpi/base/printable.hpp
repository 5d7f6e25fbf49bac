#pragma once
/// Text that came from a file, made fit for a message. No dependencies.

#include <cstddef>
#include <string>
#include <string_view>

namespace hessian_mpi {

/// One line of valid UTF-8 without control characters: spaces in place of these, question marks in place of bytes that
/// are not UTF-8. Cut after `limit` bytes, with "..." to show it.
std::string printable(std::string_view text_of_file, std::size_t limit = 200);

/// Whether all of it is UTF-8 without control characters: printable() would leave it as it is.
bool is_printable(std::string_view text_of_file);

}  // namespace hessian_mpi
