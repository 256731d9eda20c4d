#include "status.h"

#include <array>
#include <cstdarg>
#include <cstdio>

namespace rdeic {

namespace {

std::string formatted(const char* format, std::va_list arguments) {
  std::va_list again;
  va_copy(again, arguments);
  std::array<char, 512> first;
  const int length = std::vsnprintf(first.data(), first.size(), format, arguments);
  if (length < 0) {
    va_end(again);
    return format;
  }
  std::string result(static_cast<std::size_t>(length), '\0');
  std::vsnprintf(result.data(), result.size() + 1, format, again);
  va_end(again);
  return result;
}

}  // namespace

void fail(Result result, const char* format, ...) {
  std::va_list arguments;
  va_start(arguments, format);
  std::string message;
  try {
    message = formatted(format, arguments);
  } catch (...) {
    va_end(arguments);
    throw;
  }
  va_end(arguments);
  throw Error(result, message);
}

std::string text(const char* format, ...) {
  std::va_list arguments;
  va_start(arguments, format);
  std::string result;
  try {
    result = formatted(format, arguments);
  } catch (...) {
    va_end(arguments);
    throw;
  }
  va_end(arguments);
  return result;
}

std::string printable(const std::string& raw, std::size_t most) {
  std::string result;
  for (const char c : raw) {
    if (result.size() >= most) return result + "...";
    const auto byte = static_cast<unsigned char>(c);
    result += byte >= 0x20 && byte < 0x7f ? std::string(1, c) : text("\\x%02x", byte);
  }
  return result;
}

}  // namespace rdeic
