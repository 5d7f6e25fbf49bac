#pragma once
/// Errors of LibTorch in words for a user.

#include <c10/util/Exception.h>

#include <exception>
#include <string>

namespace hessian_mpi::network {

/// What went wrong, without C++ stack traces and without the interpreter's frames: for TorchScript the line of Python
/// that failed is kept, for everything else the first line. May quote the user's file: printable().
std::string message_of(const std::exception& error);

/// Where warnings go: they quote a module's code as it is, with whatever a terminal would obey.
c10::WarningHandler* dropped_warnings();

}  // namespace hessian_mpi::network
