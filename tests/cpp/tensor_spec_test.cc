#include "tensor_spec.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

namespace rdeic {
namespace {

/// Returns a tensor whose shape is given as in bundle.json; numbers are texts, too.
TensorSpec spec(const std::vector<std::string>& shape) {
  TensorSpec spec{"x", DType::kFloat32, {}};
  for (const std::string& side : shape) {
    spec.shape.push_back(free_dim(side).value_or(Dim{Dim::Free::kNone, std::atoi(side.c_str())}));
  }
  return spec;
}

TEST(TensorSpec, DimensionsAreNamesWithAFactorOrNone) {
  EXPECT_EQ(free_dim("batch"), (Dim{Dim::Free::kBatch, 1}));
  EXPECT_EQ(free_dim("hz"), (Dim{Dim::Free::kRows, 1}));
  EXPECT_EQ(free_dim("8*wz"), (Dim{Dim::Free::kColumns, 8}));
  EXPECT_EQ(free_dim("9999*hz"), (Dim{Dim::Free::kRows, 9999}));
  for (const char* none : {"", "h", "hzz", "HZ", "*hz", "0*hz", "1*hz", "08*hz", "10000*hz", "-8*hz", "8 *hz", "8*",
                           "8*8*hz", "hz*8", "8hz", " hz", "hz\n"}) {
    EXPECT_FALSE(free_dim(none).has_value()) << none;
  }
}

TEST(TensorSpec, ShapesThatFollowTheRules) {
  const std::vector<std::vector<std::string>> shapes = {
      {}, {"3"}, {"batch"}, {"1", "batch"}, {"hz", "wz"}, {"batch", "4", "8*hz", "8*wz"}, {"64*hz", "64*wz", "3"}};
  for (const auto& shape : shapes) EXPECT_EQ(spec(shape).fault(64), std::nullopt);
}

TEST(TensorSpec, ShapesThatDoNot) {
  struct Case {
    std::vector<std::string> shape;
    const char* words;
  };
  for (const Case& one : {Case{{"batch", "batch"}, "one batch"},
                          {{"2*batch"}, "one batch"},
                          {{"hz"}, "together"},
                          {{"wz"}, "together"},
                          {{"hz", "wz", "hz"}, "together"},
                          {{"wz", "hz"}, "neighbours"},
                          {{"hz", "3", "wz"}, "neighbours"},
                          {{"hz", "2*wz"}, "neighbours"},
                          {{"3*hz", "3*wz"}, "3 does not divide size_multiple_px, 64"},
                          {{"128*hz", "128*wz"}, "128 does not divide"}}) {
    const auto fault = spec(one.shape).fault(64);
    ASSERT_TRUE(fault.has_value()) << spec(one.shape).description();
    EXPECT_NE(fault->find(one.words), std::string::npos) << *fault;
  }
}

TEST(TensorSpec, ResolvesAndReadsSizes) {
  const TensorSpec latent = spec({"batch", "4", "8*hz", "8*wz"});
  EXPECT_EQ(latent.resolve({2, 3, 5}), Shape({2, 4, 24, 40}));
  Sizes sizes;
  latent.read_sizes({2, 4, 24, 40}, sizes);
  EXPECT_EQ(latent.resolve(sizes), Shape({2, 4, 24, 40}));
  EXPECT_EQ(latent.grid()->axis, 2U);
  EXPECT_EQ(latent.grid()->per_unit, 8U);
  EXPECT_FALSE(spec({"1", "208"}).grid().has_value());
}

}  // namespace
}  // namespace rdeic
