#include "crc32c.h"

#include <array>

namespace rdeic {

namespace {

constexpr std::uint32_t kReflectedPolynomial = 0x82F63B78;

// Remainders of each byte, followed by 0 to 7 zero bytes: with them eight bytes are taken at a time.
using Tables = std::array<std::array<std::uint32_t, 256>, 8>;

Tables make_tables() {
  Tables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? kReflectedPolynomial : 0);
    tables[0][byte] = crc;
  }
  for (std::size_t zeros = 1; zeros < tables.size(); ++zeros)
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[zeros - 1][byte];
      tables[zeros][byte] = (before >> 8) ^ tables[0][before & 0xff];
    }
  return tables;
}

}  // namespace

std::uint32_t crc32c(std::span<const std::uint8_t> data) {
  static const Tables kTables = make_tables();
  std::uint32_t crc = ~std::uint32_t{0};
  for (; data.size() >= 8; data = data.subspan(8)) {
    std::uint32_t next = 0;
    for (std::size_t i = 0; i < 8; ++i) {
      const std::uint32_t before = i < 4 ? crc >> (8 * i) : 0;
      next ^= kTables[7 - i][(before ^ data[i]) & 0xff];
    }
    crc = next;
  }
  for (const std::uint8_t byte : data) crc = (crc >> 8) ^ kTables[0][(crc ^ byte) & 0xff];
  return ~crc;
}

}  // namespace rdeic
