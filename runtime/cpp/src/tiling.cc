#include "tiling.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "status.h"

namespace rdeic::tiling {
namespace {

Axis axis_of(std::size_t length, std::size_t bound, std::size_t multiple) {
  bound = std::max<std::size_t>(bound / multiple, 1) * multiple;
  if (length <= bound) return {length, length, {0}, 0};
  const auto divide_up = [](std::size_t a, std::size_t b) { return (a + b - 1) / b; };
  const std::size_t ramp = std::min<std::size_t>(kOverlapPx, bound / 2 / multiple * multiple);
  const std::size_t count = divide_up(length - ramp, bound - ramp);
  Axis axis{length, divide_up(divide_up(length + (count - 1) * ramp, count), multiple) * multiple, {}, ramp};
  for (std::size_t i = 0; i < count; ++i) {
    axis.starts.push_back(i * (length - axis.tile) / (count - 1) / multiple * multiple);
  }
  return axis;
}

Axis scaled(const Axis& axis, std::size_t px) {
  Axis out{axis.length / px, axis.tile / px, {}, axis.ramp / px};
  for (const std::size_t start : axis.starts) out.starts.push_back(start / px);
  return out;
}

Shape with(Shape shape, std::size_t axis, std::size_t length) {
  shape[axis] = static_cast<std::int64_t>(length);
  return shape;
}

/// Puts a piece over what lies in the target already: along the axis it fades in at its seam, and then replaces it.
template <typename T>
void lay(Tensor<T>& target, const Tensor<T>& piece, const Axis& axis, std::size_t index, std::size_t number) {
  std::size_t outer = 1, inner = 1;
  for (std::size_t i = 0; i < number; ++i) outer *= static_cast<std::size_t>(piece.shape()[i]);
  for (std::size_t i = number + 1; i < piece.shape().size(); ++i) inner *= static_cast<std::size_t>(piece.shape()[i]);
  const std::size_t start = axis.starts[index];
  const std::size_t seam = index == 0 ? start : axis.seam(index);
  const std::size_t full = index == 0 ? start : seam + axis.ramp;
  for (std::size_t o = 0; o < outer; ++o) {
    for (std::size_t at = seam; at < start + axis.tile; ++at) {
      T* to = target.data() + (o * axis.length + at) * inner;
      const T* from = piece.data() + (o * axis.tile + at - start) * inner;
      if (at >= full) {
        std::copy_n(from, inner, to);
        continue;
      }
      const float weight = (static_cast<float>(at - seam) + 0.5F) / static_cast<float>(axis.ramp);
      for (std::size_t i = 0; i < inner; ++i) {
        const auto below = static_cast<float>(to[i]);
        const float mixed = below + (static_cast<float>(from[i]) - below) * weight;
        if constexpr (std::is_integral_v<T>) {
          to[i] = static_cast<T>(std::nearbyint(mixed));
        } else {
          to[i] = mixed;
        }
      }
    }
  }
}

}  // namespace

Tiles tiles_of(Size padded, std::uint32_t tile_px, std::uint32_t multiple_px) {
  if (tile_px < kMinTilePx) {
    fail(Result::kInvalidArgument, "tile_px is %u; it must be at least %u, twice what tiles overlap", tile_px,
         kMinTilePx);
  }
  std::uint64_t height = padded.height, width = padded.width;
  const std::uint64_t most = std::uint64_t{tile_px} * tile_px;
  if (height * width > most) {
    const std::uint64_t shorter = std::min<std::uint64_t>({height, width, tile_px});
    const std::uint64_t longer = most / shorter;
    const bool upright = height > width;
    height = std::min(height, upright ? longer : shorter);
    width = std::min(width, upright ? shorter : longer);
  }
  return {axis_of(padded.height, height, multiple_px), axis_of(padded.width, width, multiple_px)};
}

void for_each(const Tiles& tiles, const std::function<void(Tile)>& function) {
  for (std::size_t row = 0; row < tiles.rows.starts.size(); ++row) {
    for (std::size_t column = 0; column < tiles.columns.starts.size(); ++column) function({row, column});
  }
}

Piece::Piece(const Tensor<float>& whole, const Tiles& tiles, Tile tile, std::size_t px) : whole_(whole) {
  if (tiles.is_single()) return;
  const Axis rows = scaled(tiles.rows, px), columns = scaled(tiles.columns, px);
  own_.emplace(with(with(whole.shape(), 2, rows.tile), 3, columns.tile));
  float* to = own_->data();
  const auto channels = static_cast<std::size_t>(whole.shape()[1]);
  for (std::size_t channel = 0; channel < channels; ++channel) {
    for (std::size_t row = 0; row < rows.tile; ++row) {
      const std::size_t from_row = channel * rows.length + rows.starts[tile.row] + row;
      to = std::copy_n(whole.data() + from_row * columns.length + columns.starts[tile.column], columns.tile, to);
    }
  }
}

template <typename T>
Canvas<T>::Canvas(const Tiles& tiles, std::size_t px, Layout layout)
    : rows_(scaled(tiles.rows, px)), columns_(scaled(tiles.columns, px)), y_axis_(layout == Layout::kNchw ? 2 : 1) {}

template <typename T>
void Canvas<T>::add(Tile tile, Tensor<T> piece) {
  const std::size_t x_axis = y_axis_ + 1;
  if (columns_.starts.size() == 1) {
    strip_ = std::move(piece);
  } else {
    if (tile.column == 0) strip_ = Tensor<T>(with(piece.shape(), x_axis, columns_.length));
    lay(strip_, piece, columns_, tile.column, x_axis);
  }
  if (tile.column + 1 < columns_.starts.size()) return;
  if (rows_.starts.size() == 1) {
    whole_ = std::move(strip_);
    return;
  }
  if (tile.row == 0) whole_ = Tensor<T>(with(strip_.shape(), y_axis_, rows_.length));
  lay(whole_, strip_, rows_, tile.row, y_axis_);
}

template class Canvas<float>;
template class Canvas<std::uint8_t>;

}  // namespace rdeic::tiling
