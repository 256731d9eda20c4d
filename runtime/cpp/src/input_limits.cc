#include "input_limits.h"

#include <algorithm>
#include <cinttypes>

#include "status.h"

namespace rdeic {

void Limits::check_size(Size size, const char* place) const {
  if (std::max(size.height, size.width) > max_side_px)
    fail(Result::kLimitExceeded,
         "%s: %" PRIu32 "x%" PRIu32 " pixels: a side may have %" PRIu32
         " (limit max_side_px). Scale the image down, or raise the limit",
         place, size.width, size.height, max_side_px);
  const std::uint64_t pixels = std::uint64_t{size.height} * size.width;
  if (pixels > max_pixels)
    fail(Result::kLimitExceeded,
         "%s: %" PRIu32 "x%" PRIu32 " is %" PRIu64 " pixels: %" PRIu64
         " are allowed (limit max_pixels). Scale the image down, or raise the limit",
         place, size.width, size.height, pixels, max_pixels);
}

}  // namespace rdeic
