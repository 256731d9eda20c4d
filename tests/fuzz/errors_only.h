#pragma once

#include <algorithm>
#include <initializer_list>
#include <string_view>

#include "status.h"

namespace rdeic::fuzz {

/// Calls a function and returns whether it returned. What it throws must be an Error of one of these results, whose
/// message is one printable line; other Errors trap, and other exceptions are not caught.
template <typename Function>
bool returns(std::initializer_list<Result> results, Function&& function) {
  try {
    function();
    return true;
  } catch (const Error& error) {
    const std::string_view message = error.what();
    const bool is_line = std::ranges::all_of(message, [](char c) { return c >= 0x20 && c < 0x7f; });
    if (!is_line || std::ranges::find(results, error.result()) == results.end()) __builtin_trap();
    return false;
  }
}

}  // namespace rdeic::fuzz
