#include "entropy/coder.h"

#include <gtest/gtest.h>

#include <vector>

#include "expect_error.h"

namespace rdeic::entropy {
namespace {

using testing::expect_error;
using Bytes = std::vector<std::uint8_t>;
using Symbols = std::vector<std::int32_t>;

// The distributions of the test vectors in docs/format.md.
const Distribution& quarters() {
  static const Distribution distribution(Symbols{1 << 22, 1 << 23, 1 << 22});
  return distribution;
}
const GaussianTable& table() {
  static const GaussianTable gaussian(Symbols{100, 1024, 16772968, 1024, 100, 2000});
  return gaussian;
}

Symbols decoded(const Bytes& section, std::size_t n) {
  Symbols symbols(n);
  SymbolDecoder decoder(section, "section");
  decoder.get(quarters(), symbols);
  decoder.finish();
  return symbols;
}

Symbols decoded_groups(const Bytes& section, const std::vector<std::size_t>& sizes) {
  Symbols all;
  SymbolDecoder decoder(section, "section");
  for (const std::size_t n : sizes) {
    Symbols group(n);
    decoder.get_group(table(), group);
    all.insert(all.end(), group.begin(), group.end());
  }
  decoder.finish();
  return all;
}

TEST(Coder, DecodesTheSymbolsOfTheSpecification) {
  EXPECT_EQ(decoded({}, 1), Symbols({0}));
  EXPECT_EQ(decoded({0x80}, 1), Symbols({1}));
  EXPECT_EQ(decoded({0x2b}, 6), Symbols({0, 1, 2, 1, 1, 0}));
}

TEST(Coder, DecodesTheGroupsOfTheSpecification) {
  EXPECT_EQ(decoded_groups({0xff, 0xf4}, {1}), Symbols({1}));
  EXPECT_EQ(decoded_groups({0x00, 0x04, 0x63, 0xa0}, {3}), Symbols({-1, 0, 1}));
  EXPECT_EQ(decoded_groups({0xff, 0xf3, 0xcb, 0xc3, 0xa5, 0x80}, {4}), Symbols({0, 3, -40, 0}));
  EXPECT_EQ(decoded_groups({0xff, 0xf8, 0x2f, 0xfd, 0x21, 0x8f, 0x6c}, {2, 1}), Symbols({2, -3, 7}));
  EXPECT_EQ(decoded_groups({0x80}, {2000}), Symbols(2000, 0));
}

TEST(Coder, RefusesSurplusBytes) {
  expect_error(Result::kBitstream, "section", [] { decoded({0x80, 0x00}, 1); });
  expect_error(Result::kBitstream, "section", [] { decoded({0x00}, 1); });
  expect_error(Result::kBitstream, "section", [] { decoded({0x80, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 1); });
}

TEST(Coder, RefusesAnotherValueOfTheSameInterval) {
  expect_error(Result::kBitstream, "other bytes", [] { decoded({0x81}, 1); });
  expect_error(Result::kBitstream, "other bytes", [] { decoded_groups({0xff, 0xf5}, {1}); });
}

TEST(Coder, RefusesWhatNoSymbolGives) {
  // The largest fraction lies beyond the last symbol's share, as the interval is no multiple of 2^24.
  expect_error(Result::kBitstream, "no symbols", [] { decoded(Bytes(40, 0xff), 100); });
}

TEST(Coder, RefusesSymbolsThatAreTooLarge) {
  // An escape of prefix 30, e = 15, low bits 32767: 65535 beyond the radius.
  SymbolDecoder decoder(Bytes{0xff, 0xff, 0xff, 0x80}, "section");
  Symbols group(1);
  expect_error(Result::kBitstream, "section", [&] { decoder.get_group(table(), group); });
}

TEST(Coder, FindsSymbolsOfEqualAndUnequalMasses) {
  Symbols masses(65534, 1);
  masses.back() = (1 << 24) - 65533;
  const Distribution distribution(masses);
  EXPECT_EQ(distribution.symbol_of(0), 0U);
  EXPECT_EQ(distribution.symbol_of(65532), 65532U);
  EXPECT_EQ(distribution.symbol_of(65533), 65533U);
  EXPECT_EQ(distribution.symbol_of((1 << 24) - 1), 65533U);
}

TEST(Coder, CutSectionsGiveTheGroupsThatAreCertain) {
  const Bytes whole = {0xff, 0xf8, 0x2f, 0xfd, 0x21, 0x8f, 0x6c};
  const std::size_t certain[] = {0, 0, 0, 0, 1, 1, 2};  // of the groups 2, -3 and 7, by bytes that are left
  for (std::size_t left = 0; left < whole.size(); ++left) {
    const std::span<const std::uint8_t> bytes(whole);
    CutSymbolDecoder decoder(bytes.first(left), whole.size() - left, "section");
    Symbols group(1);
    std::size_t n = 0;
    while (n < 3 && decoder.get_group(table(), group)) {
      EXPECT_EQ(group[0], Symbols({2, -3, 7})[n]) << left;
      ++n;
    }
    EXPECT_EQ(n, certain[left]) << left;
    EXPECT_TRUE(decoder.at_end());
  }
}

TEST(Coder, UnpacksTheIndicesOfTheSpecification) {
  EXPECT_EQ(unpack_fixed(Bytes{0x08, 0xbe}, 3, 5, "z section"), Symbols({1, 2, 31}));
  EXPECT_EQ(unpack_fixed(Bytes{0xab, 0xcd, 0x00}, 1, 17, "z section"), Symbols({0x1579a}));
}

TEST(Coder, RefusesIndicesOfAnotherLengthOrPadding) {
  expect_error(Result::kBitstream, "take 2", [] { unpack_fixed(Bytes{0x08}, 3, 5, "z section"); });
  expect_error(Result::kBitstream, "take 2", [] { unpack_fixed(Bytes{0x08, 0xbe, 0}, 3, 5, "z section"); });
  expect_error(Result::kBitstream, "not zero", [] { unpack_fixed(Bytes{0x08, 0xbf}, 3, 5, "z section"); });
}

}  // namespace
}  // namespace rdeic::entropy
