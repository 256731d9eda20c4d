#include "memory_estimate.h"

#include <gtest/gtest.h>

#include "expect_error.h"

namespace rdeic {
namespace {

using testing::expect_error;

TensorSpec over_the_image(const char* name, DType dtype, std::int64_t channels, std::int64_t per_unit) {
  return {name,
          dtype,
          {{Dim::Free::kBatch},
           {Dim::Free::kRows, per_unit},
           {Dim::Free::kColumns, per_unit},
           {Dim::Free::kNone, channels}}};
}

/// Two stages that do nothing.
class Two final : public families::StageList {
 public:
  explicit Two(std::int64_t channels) : first_{.part = {}}, last_{.part = {}} {
    first_.outputs = {over_the_image("z", DType::kFloat32, channels, 8)};
    last_.outputs = {over_the_image("image", DType::kUint8, 3, 64)};
  }

  std::vector<const Stage*> stages() const override { return {&first_, &last_}; }
  ValuePtr run(Placement&, const families::Given&) const override { return nullptr; }

 private:
  Stage first_, last_;
};

std::uint64_t bytes_of(const Two& list, std::uint32_t units) {
  return decode_bytes(list, {{"y", {1, 16, 4 * units, 4 * units}}}, {1, units, units}, {64 * units, 64 * units});
}

TEST(MemoryEstimate, GrowsWithTheImageAndItsTensors) {
  const std::uint64_t small = bytes_of(Two(4), 8);
  EXPECT_GT(small, 512U * 512 * 3);
  EXPECT_EQ(bytes_of(Two(4), 16), 4 * small);
  EXPECT_EQ(bytes_of(Two(8), 8), small + 4U * 64 * 64 * sizeof(float));
  EXPECT_GT(bytes_of(Two(INT64_MAX), 1000), std::uint64_t{1} << 59);
}

TEST(MemoryEstimate, IsHeldAgainstItsLimit) {
  const Two list(4);
  const auto check = [&](std::uint64_t most) {
    Limits limits;
    limits.max_memory_bytes = most;
    check_memory(list, {}, {1, 8, 8}, {512, 512}, limits);
  };
  const std::uint64_t wanted = decode_bytes(list, {}, {1, 8, 8}, {512, 512});
  EXPECT_NO_THROW(check(0));
  EXPECT_NO_THROW(check(wanted));
  expect_error(Result::kLimitExceeded, "max_memory_bytes", [&] { check(wanted - 1); });
}

}  // namespace
}  // namespace rdeic
