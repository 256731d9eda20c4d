#include "sha256.h"

namespace rdeic {

std::string hex(std::span<const std::uint8_t> bytes) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string result;
  result.reserve(2 * bytes.size());
  for (const std::uint8_t byte : bytes) {
    result += kDigits[byte >> 4];
    result += kDigits[byte & 15];
  }
  return result;
}

}  // namespace rdeic
