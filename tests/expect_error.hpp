#pragma once
/// Expectation on the words of an InputError.

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi {

/// Expects that action throws InputError, with all the parts in its message and no C++ in it.
template <class Action>
void expect_input_error(const Action& action, std::initializer_list<std::string> parts) {
  try {
    action();
    ADD_FAILURE() << "no error; expected one with: " << *parts.begin();
  } catch (const InputError& error) {
    const std::string message = error.what();
    for (const auto& part : parts)
      EXPECT_NE(message.find(part), std::string::npos) << part << "\nis not in: " << message;
    for (const auto* cpp : {"Exception raised", "frame #", "c10::", "at::", "miniz", ".cpp", "\n"}) {
      EXPECT_EQ(message.find(cpp), std::string::npos) << cpp << "\nis in: " << message;
    }
  }
}

}  // namespace hessian_mpi
