#pragma once

// Pictures above a bound, in overlapping tiles of one size that are blended: graphs take the memory of one tile
// (docs/tiling.md).
//
//   |-------- tile 0 --------|
//                    |-------- tile 1 --------|
//   1  1  1  1  1  1  .8 .2  0
//                     .2 .8  1  1  1  1  1  1          weights: a ramp in the middle of what two tiles share
//
// Every denoising step runs all tiles, cut from one latent of the whole picture, and blends what they give before the
// next step, so that tiles cannot drift apart; the noise is that of the whole picture.

#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "input_limits.h"
#include "tensor.h"

namespace rdeic::tiling {

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

/// Where the tiles of a padded picture lie.
struct Tiles {
  Axis rows, columns;  // in pixels

  bool is_single() const { return rows.starts.size() == 1 && columns.starts.size() == 1; }
};

/// One tile, by its row and column.
struct Tile {
  std::size_t row, column;
};

/// Returns the tiles of a padded picture: as few as tile_px allows, and then as small as that number allows. Sides and
/// starts are multiples of `multiple_px`. Throws Error(kInvalidArgument) if tile_px < kMinTilePx.
Tiles tiles_of(Size padded, std::uint32_t tile_px, std::uint32_t multiple_px);

/// Calls `function` for every tile, row by row.
void for_each(const Tiles& tiles, const std::function<void(Tile)>& function);

/// A tile of a tensor [1, C, h, w] of the whole picture; the tensor itself where that is the only tile.
class Piece {
 public:
  /// `px`: pixels to a position of the tensor. `whole` must outlive this object.
  Piece(const Tensor<float>& whole, const Tiles& tiles, Tile tile, std::size_t px);

  const Tensor<float>& get() const { return own_ ? *own_ : whole_; }

 private:
  const Tensor<float>& whole_;
  std::optional<Tensor<float>> own_;
};

enum class Layout { kNchw, kNhwc };

/// A tensor of the whole picture, filled tile by tile in the order of `for_each`. Tiles are blended into a strip as
/// high as they are, and the finished strip into the tensor. Integers are rounded after each of the two.
template <typename T>
class Canvas {
 public:
  Canvas(const Tiles& tiles, std::size_t px, Layout layout);

  /// Takes in what was made of a tile.
  void add(Tile tile, Tensor<T> piece);

  /// Returns the whole, once all tiles were added.
  Tensor<T> take() { return std::move(whole_); }

 private:
  Axis rows_, columns_;  // in positions
  std::size_t y_axis_;   // of the shape; x is the next
  Tensor<T> strip_, whole_;
};

extern template class Canvas<float>;
extern template class Canvas<std::uint8_t>;

}  // namespace rdeic::tiling
