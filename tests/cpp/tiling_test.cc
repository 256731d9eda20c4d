#include "tiling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "expect_error.h"

namespace rdeic::tiling {
namespace {

using testing::expect_error;
using Starts = std::vector<std::size_t>;

TEST(Tiling, PicturesUpToTheBoundAreOneTile) {
  EXPECT_TRUE(tiles_of({512, 768}, 1024, 64).is_single());
  EXPECT_TRUE(tiles_of({64, 16384}, 1024, 64).is_single());
}

TEST(Tiling, TilesLieWhereTheDocumentSays) {
  const Tiles tiles = tiles_of({1024, 1536}, 1024, 64);  // the example in docs/tiling.md
  EXPECT_EQ(tiles.rows.tile, 1024U);
  EXPECT_EQ(tiles.columns.tile, 832U);
  EXPECT_EQ(tiles.columns.starts, Starts({0, 704}));
  EXPECT_EQ(tiles.columns.ramp, 128U);
}

TEST(Tiling, TilesCoverThePictureAndOverlap) {
  for (std::uint32_t height = 64; height <= 2048; height += 192) {
    for (std::uint32_t width = 64; width <= 4096; width += 320) {
      for (const std::uint32_t tile_px : {256U, 512U, 700U}) {
        const Tiles tiles = tiles_of({height, width}, tile_px, 64);
        EXPECT_LE(tiles.rows.tile * tiles.columns.tile, std::size_t{tile_px} * tile_px);
        for (const Axis* axis : {&tiles.rows, &tiles.columns}) {
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

TEST(Tiling, CutAndBlendedAgainAPictureIsTheSame) {
  const Tiles tiles = tiles_of({512, 704}, 256, 64);
  Tensor<float> whole({1, 2, 64, 88});
  std::iota(whole.data(), whole.data() + whole.size(), 0.0F);
  Canvas<float> canvas(tiles, 8, Layout::kNchw);
  for_each(tiles, [&](Tile tile) { canvas.add(tile, Piece(whole, tiles, tile, 8).get().clone()); });
  const Tensor<float> again = canvas.take();
  EXPECT_EQ(again.shape(), whole.shape());
  EXPECT_TRUE(std::ranges::equal(again.values(), whole.values()));
}

TEST(Tiling, NeighboursFadeIntoEachOther) {
  const Tiles tiles = tiles_of({256, 384}, 256, 64);
  ASSERT_EQ(tiles.columns.starts, Starts({0, 128}));
  Canvas<std::uint8_t> canvas(tiles, 1, Layout::kNhwc);
  for_each(tiles, [&](Tile tile) {
    Tensor<std::uint8_t> piece({1, 256, 256, 3});
    std::ranges::fill(piece.values(), static_cast<std::uint8_t>(tile.column == 0 ? 10 : 138));
    canvas.add(tile, std::move(piece));
  });
  const Tensor<std::uint8_t> picture = canvas.take();
  const auto at = [&](std::size_t column) { return picture.data()[column * 3]; };
  EXPECT_EQ(at(127), 10);
  EXPECT_EQ(at(128), 10);  // a weight of 0.5 / 128 of the second: 10.5, rounded to even
  EXPECT_EQ(at(192), 74);
  EXPECT_EQ(at(255), 138);
  EXPECT_EQ(at(256), 138);
}

TEST(Tiling, RefusesTilesThatAreMostlyOverlap) {
  expect_error(Result::kInvalidArgument, "256", [] { tiles_of({64, 64}, 255, 64); });
}

}  // namespace
}  // namespace rdeic::tiling
