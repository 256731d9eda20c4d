#include "pixels.h"

#include <cstring>
#include <limits>

#include "status.h"

namespace rdeic {

Size padded_size(Size size, std::uint32_t multiple_px) {
  const auto padded = [multiple_px](std::uint32_t side) {
    const std::uint64_t multiples = (std::uint64_t{side} + multiple_px - 1) / multiple_px;
    if (multiples * multiple_px > std::numeric_limits<std::uint32_t>::max()) {
      fail(Result::kLimitExceeded, "a side of %u pixels, padded to a multiple of %u, takes over 32 bits", side,
           multiple_px);
    }
    return static_cast<std::uint32_t>(multiples * multiple_px);
  };
  return {padded(size.height), padded(size.width)};
}

void crop(const Value& padded, Size size, PixelRows rows) {
  const std::uint8_t* const pixels = elements<std::uint8_t>(padded, "image").data();
  constexpr std::size_t kPixelBytes = 3;
  const std::size_t padded_row_bytes = static_cast<std::size_t>(padded.shape()[2]) * kPixelBytes;
  for (std::size_t row = 0; row < size.height; ++row) {
    std::memcpy(rows.first + row * rows.stride, pixels + row * padded_row_bytes, size.width * kPixelBytes);
  }
}

}  // namespace rdeic
