#include "sha256.h"

#include <gtest/gtest.h>

#include <vector>

namespace rdeic {
namespace {

std::string digest_of(const std::string& text, std::size_t piece) {
  Sha256 hash;
  const std::vector<std::uint8_t> bytes(text.begin(), text.end());
  for (std::size_t at = 0; at < bytes.size(); at += piece)
    hash.update(std::span(bytes).subspan(at, std::min(piece, bytes.size() - at)));
  return hex(hash.finish());
}

TEST(Sha256, GivesKnownDigests) {
  EXPECT_EQ(digest_of("", 1), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(digest_of("abc", 3), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Sha256, DoesNotDependOnPieces) {
  const std::string text(1000, 'x');
  EXPECT_EQ(digest_of(text, 1), digest_of(text, 1000));
  EXPECT_EQ(digest_of(text, 63), digest_of(text, 1000));
}

}  // namespace
}  // namespace rdeic
