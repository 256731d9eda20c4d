#include "tiles.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "expect_error.h"

namespace rdeic::tiles {
namespace {

using testing::expect_error;
using Starts = std::vector<std::size_t>;

TEST(Tiles, ImagesUpToTheBoundAreOneTile) {
  EXPECT_TRUE(tiles_of({512, 768}, 1024, 64).is_single());
  EXPECT_TRUE(tiles_of({64, 16384}, 1024, 64).is_single());
}

TEST(Tiles, TilesLieWhereTheDocumentSays) {
  const Tiling tiling = tiles_of({1024, 1536}, 1024, 64);  // the example in docs/tiling.md
  EXPECT_EQ(tiling.rows.tile, 1024U);
  EXPECT_EQ(tiling.columns.tile, 832U);
  EXPECT_EQ(tiling.columns.starts, Starts({0, 704}));
  EXPECT_EQ(tiling.columns.ramp, 128U);
}

TEST(Tiles, NeighboursShareTheRampWhateverTheUnit) {
  for (const std::uint32_t unit : {96U, 128U, 256U}) {
    for (std::uint32_t length = unit; length < 40 * unit; length += unit) {
      const Axis axis = tiles_of({length, length}, 512, unit).rows;
      EXPECT_EQ(axis.starts.back() + axis.tile, axis.length);
      for (std::size_t i = 1; i < axis.starts.size(); ++i) {
        EXPECT_GE(axis.starts[i - 1] + axis.tile, axis.starts[i] + axis.ramp);
        EXPECT_GE(axis.ramp, 96U);
      }
    }
  }
}

TEST(Tiles, TilesCoverTheImageAndOverlap) {
  for (std::uint32_t height = 64; height <= 2048; height += 192) {
    for (std::uint32_t width = 64; width <= 4096; width += 320) {
      for (const std::uint32_t tile_px : {256U, 512U, 700U}) {
        const Tiling tiling = tiles_of({height, width}, tile_px, 64);
        EXPECT_LE(tiling.rows.tile * tiling.columns.tile, std::size_t{tile_px} * tile_px);
        for (const Axis* axis : {&tiling.rows, &tiling.columns}) {
          EXPECT_EQ(axis->starts.front(), 0U);
          EXPECT_EQ(axis->starts.back() + axis->tile, axis->length);
          for (std::size_t i = 1; i < axis->starts.size(); ++i) {
            EXPECT_GT(axis->starts[i], axis->starts[i - 1]);
            EXPECT_GE(axis->starts[i - 1] + axis->tile, axis->starts[i] + axis->ramp);
            EXPECT_EQ(axis->starts[i] % 64, 0U);
          }
        }
      }
    }
  }
}

/// Returns what lies over an image of 64-pixel units in `per_unit` positions a side, between other dimensions.
TensorSpec spec(DType dtype, std::vector<std::int64_t> before, std::int64_t per_unit, std::vector<std::int64_t> after) {
  TensorSpec spec{"x", dtype, {}};
  for (const std::int64_t side : before) spec.shape.push_back({Dim::Free::kNone, side});
  for (const Dim::Free free : {Dim::Free::kRows, Dim::Free::kColumns}) spec.shape.push_back({free, per_unit});
  for (const std::int64_t side : after) spec.shape.push_back({Dim::Free::kNone, side});
  return spec;
}

std::vector<std::byte> bytes_of(const Value& value) {
  return {value.data(), value.data() + count_of(value.shape()) * dtype_bytes(value.dtype())};
}

template <typename T>
void expect_cut_and_blended_again_the_same(const TensorSpec& of, const Sizes& sizes) {
  for (const std::uint32_t tile_px : {256U, 1024U}) {  // of 512 x 704 pixels, the second makes one tile
    const Tiling tiling = tiles_of({512, 704}, tile_px, 64);
    Tensor<T> tensor(of.resolve(sizes));
    for (std::size_t i = 0; i < tensor.size(); ++i) tensor.data()[i] = static_cast<T>(i * 7);
    const ValuePtr whole = to_value(std::move(tensor));
    Canvas canvas(tiling, of);
    for_each(tiling, [&](Tile tile) { canvas.add(tile, crop(whole, of, tiling, tile)); });
    const ValuePtr again = canvas.take();
    EXPECT_EQ(again->dtype(), whole->dtype());
    EXPECT_EQ(again->shape(), whole->shape());
    EXPECT_EQ(bytes_of(*again), bytes_of(*whole));
  }
}

TEST(Tiles, CutAndBlendedAgainATensorIsTheSame) {
  const Sizes sizes{1, 512 / 64, 704 / 64};
  expect_cut_and_blended_again_the_same<float>(spec(DType::kFloat32, {1, 2}, 8, {}), sizes);
  expect_cut_and_blended_again_the_same<std::uint8_t>(spec(DType::kUint8, {1}, 64, {3}), sizes);
  expect_cut_and_blended_again_the_same<std::int64_t>(spec(DType::kInt64, {1}, 1, {}), sizes);
  expect_cut_and_blended_again_the_same<float>(spec(DType::kFloat32, {}, 2, {1, 3}), sizes);
}

/// Returns what is made of two tiles beside each other, 256 pixels wide, that are all `left` and all `right`.
template <typename T>
ValuePtr of_two_tiles(const TensorSpec& of, const Tiling& tiling, T left, T right) {
  Canvas canvas(tiling, of);
  for_each(tiling, [&](Tile tile) {
    Tensor<T> piece(of.resolve({1, 4, 4}));
    std::ranges::fill(piece.values(), tile.column == 0 ? left : right);
    canvas.add(tile, to_value(std::move(piece)));
  });
  return canvas.take();
}

TEST(Tiles, NeighboursFadeIntoEachOther) {
  const Tiling tiling = tiles_of({256, 384}, 256, 64);
  ASSERT_EQ(tiling.columns.starts, Starts({0, 128}));
  const ValuePtr image = of_two_tiles(spec(DType::kUint8, {1}, 64, {3}), tiling, std::uint8_t{10}, std::uint8_t{138});
  const auto pixels = elements<std::uint8_t>(*image, "image");
  const auto at = [&](std::size_t column) { return pixels[column * 3]; };
  EXPECT_EQ(at(127), 10);
  EXPECT_EQ(at(128), 10);  // a weight of 0.5 / 128 of the second: 10.5, rounded to even
  EXPECT_EQ(at(192), 74);
  EXPECT_EQ(at(255), 138);
  EXPECT_EQ(at(256), 138);
}

TEST(Tiles, IndicesAreCutAndNotBlended) {
  const Tiling tiling = tiles_of({256, 384}, 256, 64);
  const ValuePtr indices = of_two_tiles(spec(DType::kInt64, {1}, 2, {}), tiling, std::int64_t{10}, std::int64_t{900});
  for (const std::int64_t index : elements<std::int64_t>(*indices, "indices")) EXPECT_TRUE(index == 10 || index == 900);
}

TEST(Tiles, WhatIsTheSameForAllSizesIsNeitherCutNorMade) {
  const Tiling tiling = tiles_of({256, 384}, 256, 64);
  const TensorSpec row{"row", DType::kFloat32, {{Dim::Free::kNone, 1}, {Dim::Free::kNone, 5}}};
  const ValuePtr value = to_value(Tensor<float>({1, 5}));
  EXPECT_EQ(crop(value, row, tiling, {0, 1}), value);
  expect_error(Result::kBundleCorrupt, "row is float32 [1, 5]: it does not lie over", [&] { Canvas(tiling, row); });
  expect_error(Result::kBundleCorrupt, "float16", [&] { Canvas(tiling, spec(DType::kFloat16, {1}, 8, {})); });
}

TEST(Tiles, RefusesTilesThatAreMostlyOverlap) {
  expect_error(Result::kInvalidArgument, "256", [] { tiles_of({64, 64}, 255, 64); });
}

}  // namespace
}  // namespace rdeic::tiles
