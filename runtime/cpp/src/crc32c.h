#pragma once

#include <cstdint>
#include <span>

namespace rdeic {

/// Returns the CRC-32C (Castagnoli) of some bytes (docs/format.md, "Checksum").
std::uint32_t crc32c(std::span<const std::uint8_t> data);

}  // namespace rdeic
