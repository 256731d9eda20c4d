#pragma once

// Tiles of an image: where they lie, how they are cut, and how what they give is blended (docs/tiling.md).
//
//   |-------- tile 0 --------|
//                    |-------- tile 1 --------|
//   1  1  1  1  1  1  .8 .2  0
//                     .2 .8  1  1  1  1  1  1          weights: a ramp in the middle of what two tiles share
//
// Only latents and image are as large as the image.

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "input_limits.h"
#include "tensor_spec.h"
#include "value.h"

namespace rdeic::tiles {

/// What two neighbours share at least; half of it costs 0.6 to 1.5 dB, and twice as much gains nothing.
inline constexpr std::uint32_t kOverlapPx = 128;
inline constexpr std::uint32_t kMinTilePx = 2 * kOverlapPx;

/// Tiles along one side, in pixels or in positions of a tensor.
struct Axis {
  std::size_t length = 0;           // of the whole
  std::size_t tile = 0;             // of every tile
  std::vector<std::size_t> starts;  // of the tiles, rising; the first is 0 and the last ends with the whole
  std::size_t ramp = 0;             // over which two neighbours are blended

  /// Returns where the ramp from the tile before this one begins: it is centred in what the two share.
  std::size_t seam(std::size_t index) const { return (starts[index] + starts[index - 1] + tile - ramp) / 2; }
};

/// Where the tiles of a padded image lie.
struct Tiling {
  Axis rows, columns;         // in pixels
  std::uint32_t unit_px = 1;  // sides and starts of tiles are multiples of it

  bool is_single() const { return rows.starts.size() == 1 && columns.starts.size() == 1; }
};

/// One tile, by its row and column.
struct Tile {
  std::size_t row, column;

  bool is_first() const { return row + column == 0; }
};

/// Returns the tiles of a padded image: as few as tile_px allows, and then as small as that number allows. Throws
/// Error(kInvalidArgument) if tile_px < kMinTilePx.
Tiling tiles_of(Size padded, std::uint32_t tile_px, std::uint32_t unit_px);

/// Calls `function` for every tile, row by row.
void for_each(const Tiling& tiling, const std::function<void(Tile)>& function);

/// Returns a tile of a value on the host, which is of the whole image; the value itself if it is the same for all
/// sizes.
ValuePtr crop(const ValuePtr& whole, const TensorSpec& spec, const Tiling& tiling, Tile tile);

/// A tensor of the whole image, filled tile by tile in the order of `for_each`. Tiles are blended into a strip as high
/// as they are, and the finished strip into the tensor. uint8 is rounded after each of the two; other integers are
/// indices, of which each is taken from one tile.
class Canvas {
 public:
  /// Throws Error(kBundleCorrupt) for a tensor that does not lie over the image or cannot be blended.
  Canvas(const Tiling& tiling, const TensorSpec& spec);

  /// Takes in what was made of a tile, on the host.
  void add(Tile tile, const ValuePtr& piece);

  /// Returns the whole, once all tiles were added.
  ValuePtr take() { return std::move(whole_); }

 private:
  std::size_t y_axis_;   // of the shape; x is the next
  Axis rows_, columns_;  // in positions
  std::shared_ptr<HostValue> strip_, whole_;
};

}  // namespace rdeic::tiles
