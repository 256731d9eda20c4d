#pragma once

#include <cstdio>
#include <string>

#include "rdeic/rdeic.h"

namespace rdeic_tool {

/// Writes an image with its ICC profile and EXIF as PNG. Returns what went wrong, or nothing.
std::string write_png(std::FILE* file, const rdeic_image& image);

}  // namespace rdeic_tool
