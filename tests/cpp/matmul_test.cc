#include "entropy/matmul.h"

#include <gtest/gtest.h>

#include <random>

namespace rdeic::entropy {
namespace {

struct Case {
  std::size_t rows, segments, segment, outputs;
};

// One group and one block, parts of them, several blocks, tiles of rows that are not full.
constexpr Case kCases[] = {{1, 1, 1, 1},    {3, 1, 4, 16},    {12, 3, 5, 17},
                           {13, 5, 60, 48}, {96, 1, 128, 33}, {50, 3, 7, 100}};

/// Compares every kernel with the sum that defines it; `extreme`: only bytes and weights of the largest magnitude.
void compare(const Case& c, bool extreme) {
  std::mt19937 random(c.rows * 31 + c.outputs);
  const std::size_t stride = c.segment + 3, products = c.segments * c.segment;
  std::vector<std::uint8_t> bytes(c.rows * c.segments * stride + 3);
  for (auto& byte : bytes) byte = extreme ? 255 : static_cast<std::uint8_t>(random());
  std::vector<std::int8_t> u(products * c.outputs), v(u.size());
  for (auto* weights : {&u, &v}) {
    for (auto& weight : *weights)
      weight = static_cast<std::int8_t>(extreme ? 64 : static_cast<int>(random() % 129) - 64);
  }
  const std::span<const std::int8_t> both[] = {u, v};
  const PackedWeights packed(both, c.segments, c.outputs);
  std::vector<const std::uint8_t*> inputs;
  for (std::size_t row = 0; row < c.rows; ++row) inputs.push_back(bytes.data() + row * c.segments * stride);
  for (const Kernels& kernels : available_kernels()) {
    std::vector<std::int32_t> out(c.rows * packed.columns(), -1);
    kernels.product(inputs, stride, packed, out.data());
    for (std::size_t row = 0; row < c.rows; ++row) {
      for (std::size_t column = 0; column < 2 * c.outputs; ++column) {
        const auto& weights = column < c.outputs ? u : v;
        std::int64_t sum = 0;
        for (std::size_t n = 0; n < products; ++n) {
          sum += inputs[row][n / c.segment * stride + n % c.segment] * weights[n * c.outputs + column % c.outputs];
        }
        ASSERT_EQ(out[row * packed.columns() + column], sum) << kernels.name << " " << row << " " << column;
      }
    }
  }
}

TEST(Matmul, EveryKernelGivesTheExactSums) {
  for (const Case& c : kCases) compare(c, false);
}

TEST(Matmul, NoKernelSaturates) {
  for (const Case& c : kCases) compare(c, true);
}

TEST(Matmul, EveryKernelAccumulatesTheSame) {
  std::mt19937 random(3);
  constexpr std::size_t kN = 37;
  std::vector<std::int32_t> mult(kN), high(kN), low(kN), fine(kN);
  for (std::size_t i = 0; i < kN; ++i) {
    mult[i] = static_cast<std::int32_t>(random() % 20001) - 10000;
    for (auto* sums : {&high, &low, &fine}) (*sums)[i] = static_cast<std::int32_t>(random() % 2000001) - 1000000;
  }
  for (const Kernels& kernels : available_kernels()) {
    std::vector<std::int64_t> coarse(kN, 5), all(kN, -5);
    kernels.accumulate(coarse.data(), kN, mult.data(), high.data(), nullptr, nullptr);
    kernels.accumulate(all.data(), kN, mult.data(), high.data(), low.data(), fine.data());
    for (std::size_t i = 0; i < kN; ++i) {
      const std::int64_t h = high[i], l = low[i], f = fine[i];
      EXPECT_EQ(coarse[i], 5 + h * mult[i]) << kernels.name;
      EXPECT_EQ(all[i], -5 + (32768 * h + 128 * l + 256 * f) * mult[i]) << kernels.name;
    }
  }
}

TEST(Matmul, ThePortableKernelIsAlwaysThere) { EXPECT_STREQ(available_kernels().back().name, "portable"); }

}  // namespace
}  // namespace rdeic::entropy
