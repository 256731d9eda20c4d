#include "entropy/layers.h"

#include <gtest/gtest.h>

#include <cstring>

#include "expect_error.h"

namespace rdeic::entropy {
namespace {

using testing::expect_error;
using Named = std::map<std::string, Array>;

template <typename T>
void put(Named& arrays, const std::string& name, std::vector<std::uint64_t> shape, const std::vector<T>& values) {
  Array array{dtype_of<T>(), std::move(shape), std::vector<std::byte>(values.size() * sizeof(T))};
  std::memcpy(array.data.data(), values.data(), array.data.size());
  arrays[name] = std::move(array);
}

/// The layer of the test vectors in docs/format.md: two channels, one output.
Named layer(bool fine) {
  Named arrays;
  put<std::int8_t>(arrays, "l.weight", {1, 1, 2, 1}, {-3, 64});
  if (fine) put<std::int8_t>(arrays, "l.weight_low", {1, 1, 2, 1}, {17, -5});
  put<std::int32_t>(arrays, "l.mult", {1}, {90});
  put<std::int64_t>(arrays, "l.offset", {1}, {500000000});
  put<std::int32_t>(arrays, "l.shift", {1}, {15});
  return arrays;
}

Layer read(const Named& named, std::size_t channels = 2) {
  const Arrays arrays(named, "entropy model");
  ModelReader reader(arrays);
  Layer made(reader, "l", channels, kAnyLength, false);
  reader.close();
  return made;
}

std::int32_t result_of(const Layer& made, std::vector<std::uint16_t> x) {
  Workers workers(1);
  const View<const std::uint16_t> grid{x.data(), 1, 1, x.size(), x.size()};
  return made.wide({available_kernels().front(), workers}, grid).values()[0];
}

TEST(Layers, MatchTheTestVectorsOfTheSpecification) {
  EXPECT_EQ(result_of(read(layer(false)), {40000, 300}), 15257);
  EXPECT_EQ(result_of(read(layer(true)), {40000, 300}), -18318);
}

TEST(Layers, ConvolveWithoutMirroringAndPadWithZero) {
  Named arrays = layer(false);
  std::vector<std::int8_t> taps(9);
  for (int i = 0; i < 9; ++i) taps[static_cast<std::size_t>(i)] = static_cast<std::int8_t>(i);
  put<std::int8_t>(arrays, "l.weight", {3, 3, 1, 1}, taps);
  put<std::uint16_t>(arrays, "l.zero", {1}, {7 << 8});
  put<std::int32_t>(arrays, "l.mult", {1}, {1});
  put<std::int64_t>(arrays, "l.offset", {1}, {0});
  put<std::int32_t>(arrays, "l.shift", {1}, {0});
  const Layer made = read(arrays, 1);
  const std::vector<std::uint16_t> x = {1 << 8, 2 << 8, 3 << 8, 4 << 8};
  Workers workers(2);
  const auto out = made.wide({available_kernels().front(), workers}, {x.data(), 2, 2, 1, 1}).values();
  // At row 0, column 0: all but the taps 4, 5, 7 and 8 see padding.
  EXPECT_EQ(out, std::vector<std::int32_t>({7 * (0 + 1 + 2 + 3 + 6) + 4 * 1 + 5 * 2 + 7 * 3 + 8 * 4,
                                            7 * (0 + 1 + 2 + 5 + 8) + 3 * 1 + 4 * 2 + 6 * 3 + 7 * 4,
                                            7 * (0 + 3 + 6 + 7 + 8) + 1 * 1 + 2 * 2 + 4 * 3 + 5 * 4,
                                            7 * (2 + 5 + 6 + 7 + 8) + 0 * 1 + 1 * 2 + 3 * 3 + 4 * 4}));
}

TEST(Layers, RefuseWhatCouldOverflow) {
  Named arrays = layer(true);
  put<std::int64_t>(arrays, "l.offset", {1}, {std::int64_t{1} << 62});
  expect_error(Result::kBundleCorrupt, "64 bits", [&] { read(arrays); });
  put<std::int64_t>(arrays, "l.offset", {1}, {std::numeric_limits<std::int64_t>::min()});
  expect_error(Result::kBundleCorrupt, "64 bits", [&] { read(arrays); });
}

TEST(Layers, RefuseWeightsAndKernelsOutOfRange) {
  Named arrays = layer(false);
  put<std::int8_t>(arrays, "l.weight", {1, 1, 2, 1}, {-65, 0});
  expect_error(Result::kBundleCorrupt, "64", [&] { read(arrays); });
  put<std::int8_t>(arrays, "l.weight", {2, 2, 2, 1}, std::vector<std::int8_t>(8));
  expect_error(Result::kBundleCorrupt, "kernel", [&] { read(arrays); });
}

TEST(Layers, RefuseMissingAndUnknownArrays) {
  Named arrays = layer(false);
  put<std::uint16_t>(arrays, "l.zero", {2}, {0, 0});  // only where the kernel is larger than 1
  expect_error(Result::kBundleCorrupt, "l.zero", [&] { read(arrays); });
  arrays.erase("l.zero");
  arrays.erase("l.mult");
  expect_error(Result::kBundleCorrupt, "l.mult", [&] { read(arrays); });
}

}  // namespace
}  // namespace rdeic::entropy
