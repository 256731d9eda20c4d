#include "crc32c.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace rdeic {
namespace {

TEST(Crc32c, GivesTheValuesOfTheSpecification) {
  const std::string digits = "123456789";
  EXPECT_EQ(crc32c({}), 0x00000000U);
  EXPECT_EQ(crc32c(std::vector<std::uint8_t>(32, 0x00)), 0x8A9136AAU);
  EXPECT_EQ(crc32c(std::vector<std::uint8_t>(32, 0xff)), 0x62A8AB43U);
  EXPECT_EQ(crc32c(std::vector<std::uint8_t>(digits.begin(), digits.end())), 0xE3069283U);
}

TEST(Crc32c, DoesNotDependOnHowBytesFallIntoBlocks) {
  std::vector<std::uint8_t> data(100);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::uint8_t>(i * 37 + 11);
  for (std::size_t n = 0; n <= data.size(); ++n) {
    std::uint32_t bit_by_bit = ~0U;
    for (std::size_t i = 0; i < n; ++i) {
      bit_by_bit ^= data[i];
      for (int bit = 0; bit < 8; ++bit) bit_by_bit = (bit_by_bit >> 1) ^ ((bit_by_bit & 1) ? 0x82F63B78U : 0);
    }
    EXPECT_EQ(crc32c(std::span(data).first(n)), ~bit_by_bit) << n << " bytes";
  }
}

}  // namespace
}  // namespace rdeic
