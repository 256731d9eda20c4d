#include "status.h"

#include <gtest/gtest.h>

namespace rdeic {
namespace {

TEST(Status, FailsWithResultAndMessage) {
  try {
    fail(Result::kChecksum, "byte %d of %s", 7, std::string(600, 'x').c_str());
  } catch (const Error& error) {
    EXPECT_EQ(error.result(), Result::kChecksum);
    EXPECT_EQ(error.what(), "byte 7 of " + std::string(600, 'x'));
  }
}

TEST(Status, PrintableTextIsOneShortLine) {
  EXPECT_EQ(printable("plain"), "plain");
  EXPECT_EQ(printable("a\nb\xc3\x01"), "a\\x0ab\\xc3\\x01");
  EXPECT_EQ(printable(std::string(500, 'x'), 10), "xxxxxxxxxx...");
}

}  // namespace
}  // namespace rdeic
