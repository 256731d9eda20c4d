#pragma once

#include <cstddef>
#include <cstdint>

#include "input_limits.h"
#include "value.h"

namespace rdeic {

/// Rows of RGB, 3 bytes a pixel, `stride` bytes from one to the next.
struct PixelRows {
  std::uint8_t* first = nullptr;
  std::size_t stride = 0;
};

/// Returns the size of an image whose sides are padded to multiples.
Size padded_size(Size size, std::uint32_t multiple_px);

/// Writes the top left of a padded image on the host, uint8 [1, h, w, 3].
void crop(const Value& padded, Size size, PixelRows rows);

}  // namespace rdeic
