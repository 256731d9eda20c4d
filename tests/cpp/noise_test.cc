#include "noise.h"

#include <gtest/gtest.h>

#include <cmath>

namespace rdeic {
namespace {

void expect_values(std::uint64_t seed, std::uint64_t draw, const std::vector<float>& expected) {
  const Tensor<float> noise = gaussian({static_cast<std::int64_t>(expected.size())}, seed, draw);
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(noise.data()[i], expected[i], 1e-6F) << i;
}

TEST(Noise, MatchesTheTestVectorsOfTheSpecification) {
  expect_values(0, 0, {0.158533841F, 2.9828794F, -1.92569196F, -0.824925542F, -0.202503279F, 1.15576422F});
  expect_values(0x982bfa0f, 0, {1.21748936F, -1.23064864F, 0.806943119F, -1.21516955F, 0.680458069F, 0.939697504F});
  expect_values(0x982bfa0f, 1, {-0.100712687F, -0.199362323F, 2.13418555F, 0.135311127F, 0.609919488F, -1.76564634F});
}

TEST(Noise, OddCountsDropTheLastValue) {
  const Tensor<float> seven = gaussian({1, 7}, 5, 3), eight = gaussian({2, 4}, 5, 3);
  for (std::size_t i = 0; i < seven.size(); ++i) EXPECT_EQ(seven.data()[i], eight.data()[i]);
}

TEST(Noise, IsNormal) {
  const Tensor<float> noise = gaussian({100000}, 1, 2);
  double sum = 0, squares = 0;
  for (const float value : noise.values()) {
    sum += value;
    squares += double{value} * value;
  }
  EXPECT_NEAR(sum / 100000, 0, 0.01);
  EXPECT_NEAR(squares / 100000, 1, 0.02);
}

}  // namespace
}  // namespace rdeic
