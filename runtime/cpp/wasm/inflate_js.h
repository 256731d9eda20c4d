#pragma once

#include <cstdint>
#include <span>

#include "inflate.h"

namespace rdeic {

/// Decompresses a raw deflate stream (RFC 1951). Of one that is not whole, `data` is what could be had of it.
Inflated inflate_raw(std::span<const std::uint8_t> input, std::uint64_t limit_bytes);

}  // namespace rdeic
