#pragma once

#include <gtest/gtest.h>

#include <string>

#include "status.h"

namespace rdeic::testing {

/// Checks that a statement throws Error with this result, and a message that holds `words`.
template <typename Statement>
void expect_error(Result result, const std::string& words, Statement&& statement) {
  try {
    statement();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.result()), static_cast<int>(result)) << error.what();
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what() << "\nshould hold: " << words;
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return;
  }
  ADD_FAILURE() << "nothing was thrown; should be " << static_cast<int>(result) << ", " << words;
}

}  // namespace rdeic::testing
