#include "tiles.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <optional>
#include <type_traits>

#include "status.h"

namespace rdeic::tiles {
namespace {

Axis axis_of(std::size_t length, std::size_t bound, std::size_t unit) {
  bound = std::max<std::size_t>(bound / unit, 1) * unit;
  if (length <= bound) return {length, length, {0}, 0};
  const auto divide_up = [](std::size_t a, std::size_t b) { return (a + b - 1) / b; };
  const std::size_t ramp = std::min<std::size_t>(kOverlapPx, bound / 2 / unit * unit);
  // As tiles begin and end at units, so does what two of them share.
  const std::size_t shared = divide_up(ramp, unit) * unit;
  const std::size_t count = divide_up(length - shared, bound - shared);
  Axis axis{length, divide_up(divide_up(length + (count - 1) * shared, count), unit) * unit, {}, ramp};
  for (std::size_t i = 0; i < count; ++i) {
    axis.starts.push_back(i * (length - axis.tile) / (count - 1) / unit * unit);
  }
  return axis;
}

Axis scaled(const Axis& axis, std::size_t px, bool blend) {
  Axis out{axis.length / px, axis.tile / px, {}, blend ? axis.ramp / px : 0};
  for (const std::size_t start : axis.starts) out.starts.push_back(start / px);
  return out;
}

/// Returns how many pixels along a side one position of a tensor stands for.
std::size_t px_of(const TensorGrid& grid, const Tiling& tiling) { return tiling.unit_px / grid.per_unit; }

TensorGrid grid_of(const TensorSpec& spec) {
  const std::optional<TensorGrid> grid = spec.grid();
  if (!grid) {
    fail(Result::kBundleCorrupt, "%s is %s: it does not lie over the image, so tiles cannot make it",
         printable(spec.name).c_str(), spec.description().c_str());
  }
  return *grid;
}

/// Returns the product of sides from one axis to before another.
std::size_t product(const Shape& shape, std::size_t from, std::size_t to) {
  return count_of(
      Shape(shape.begin() + static_cast<std::ptrdiff_t>(from), shape.begin() + static_cast<std::ptrdiff_t>(to)));
}

Shape with(Shape shape, std::size_t axis, std::size_t length) {
  shape[axis] = static_cast<std::int64_t>(length);
  return shape;
}

/// Puts `n` elements where others lie, which keep `1 - weight` of each.
using Mix = void (*)(std::byte* below, const std::byte* over, std::size_t n, float weight);

template <typename T>
void mix(std::byte* below, const std::byte* over, std::size_t n, float weight) {
  T* const to = reinterpret_cast<T*>(below);
  const T* const from = reinterpret_cast<const T*>(over);
  for (std::size_t i = 0; i < n; ++i) {
    const auto kept = static_cast<float>(to[i]);
    const float mixed = kept + (static_cast<float>(from[i]) - kept) * weight;
    if constexpr (std::is_integral_v<T>) {
      to[i] = static_cast<T>(std::nearbyint(mixed));
    } else {
      to[i] = mixed;
    }
  }
}

Mix mix_of(DType dtype) { return dtype == DType::kFloat32 ? mix<float> : mix<std::uint8_t>; }

/// Puts a piece over what lies in the target already: along the axis it fades in at its seam, and then replaces it.
void lay(HostValue& target, const Value& piece, const Axis& axis, std::size_t index, std::size_t number) {
  const Mix mix = mix_of(piece.dtype());
  const std::size_t outer = product(piece.shape(), 0, number);
  const std::size_t inner = product(piece.shape(), number + 1, piece.shape().size());
  const std::size_t row_bytes = inner * dtype_bytes(piece.dtype());
  const std::size_t start = axis.starts[index];
  const std::size_t seam = index == 0 ? start : axis.seam(index);
  const std::size_t full = index == 0 ? start : seam + axis.ramp;
  for (std::size_t o = 0; o < outer; ++o) {
    std::byte* const to = target.data() + o * axis.length * row_bytes;
    const std::byte* const from = piece.data() + o * axis.tile * row_bytes;
    for (std::size_t at = seam; at < full; ++at) {
      const float weight = (static_cast<float>(at - seam) + 0.5F) / static_cast<float>(axis.ramp);
      mix(to + at * row_bytes, from + (at - start) * row_bytes, inner, weight);
    }
    std::memcpy(to + full * row_bytes, from + (full - start) * row_bytes, (start + axis.tile - full) * row_bytes);
  }
}

}  // namespace

Tiling tiles_of(Size padded, std::uint32_t tile_px, std::uint32_t unit_px) {
  if (tile_px < kMinTilePx) {
    fail(Result::kInvalidArgument, "tile_px is %u; it must be at least %u, twice what tiles overlap", tile_px,
         kMinTilePx);
  }
  std::size_t height = padded.height, width = padded.width;
  const std::uint64_t most = std::uint64_t{tile_px} * tile_px;
  if (std::uint64_t{height} * width > most) {
    const std::size_t shorter = std::min<std::size_t>({height, width, tile_px});
    const auto longer = static_cast<std::size_t>(std::min<std::uint64_t>(most / shorter, SIZE_MAX));
    const bool upright = height > width;
    height = std::min(height, upright ? longer : shorter);
    width = std::min(width, upright ? shorter : longer);
  }
  return {axis_of(padded.height, height, unit_px), axis_of(padded.width, width, unit_px), unit_px};
}

void for_each(const Tiling& tiling, const std::function<void(Tile)>& function) {
  for (std::size_t row = 0; row < tiling.rows.starts.size(); ++row) {
    for (std::size_t column = 0; column < tiling.columns.starts.size(); ++column) function({row, column});
  }
}

ValuePtr crop(const ValuePtr& whole, const TensorSpec& spec, const Tiling& tiling, Tile tile) {
  const std::optional<TensorGrid> grid = spec.grid();
  if (!grid) return whole;
  const std::size_t px = px_of(*grid, tiling);
  const Axis rows = scaled(tiling.rows, px, false), columns = scaled(tiling.columns, px, false);
  const Shape& shape = whole->shape();
  auto piece = std::make_shared<HostValue>(whole->dtype(),
                                           with(with(shape, grid->axis, rows.tile), grid->axis + 1, columns.tile));
  const std::size_t outer = product(shape, 0, grid->axis);
  const std::size_t position_bytes = product(shape, grid->axis + 2, shape.size()) * dtype_bytes(whole->dtype());
  std::byte* to = piece->data();
  for (std::size_t o = 0; o < outer; ++o) {
    for (std::size_t row = 0; row < rows.tile; ++row) {
      const std::size_t from_row = o * rows.length + rows.starts[tile.row] + row;
      const std::size_t from = from_row * columns.length + columns.starts[tile.column];
      to = std::copy_n(whole->data() + from * position_bytes, columns.tile * position_bytes, to);
    }
  }
  return piece;
}

Canvas::Canvas(const Tiling& tiling, const TensorSpec& spec) : y_axis_(grid_of(spec).axis) {
  if (spec.dtype == DType::kFloat16) {
    fail(Result::kBundleCorrupt, "%s is float16: tiles of it cannot be blended", printable(spec.name).c_str());
  }
  const std::size_t px = px_of(grid_of(spec), tiling);
  const bool blend = spec.dtype == DType::kFloat32 || spec.dtype == DType::kUint8;
  rows_ = scaled(tiling.rows, px, blend);
  columns_ = scaled(tiling.columns, px, blend);
}

void Canvas::add(Tile tile, const ValuePtr& piece) {
  const std::size_t x_axis = y_axis_ + 1;
  if (tile.column == 0) {
    strip_ = std::make_shared<HostValue>(piece->dtype(), with(piece->shape(), x_axis, columns_.length));
  }
  lay(*strip_, *piece, columns_, tile.column, x_axis);
  if (tile.column + 1 < columns_.starts.size()) return;
  if (tile.row == 0) {
    whole_ = std::make_shared<HostValue>(strip_->dtype(), with(strip_->shape(), y_axis_, rows_.length));
  }
  lay(*whole_, *strip_, rows_, tile.row, y_axis_);
  strip_.reset();
}

}  // namespace rdeic::tiles
