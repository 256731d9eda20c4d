#pragma once

// The coding order of y: slices, two checkerboard passes each, and in a pass the symbols grouped by scale index.
//
// Slices of channels come in order. In each, the anchors (row + column odd, A) are coded first, then the non-anchors
// (n), which see them. A pass is squeezed to half the width:
//
//   n A n A        anchors  A A      non-anchors  n n
//   A n A n   -->           A A                   n n
//   n A n A                 A A                   n n
//
// and its symbols are numbered by row, then column, then channel. Symbols whose scale index is under `skip_below` are
// not coded. The others are coded by rising scale index, those of one index in the order of their numbers.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tensor.h"

namespace rdeic::entropy {

enum class Pass { kAnchors, kNonAnchors };

/// Some channels of a grid [height, width, ...].
template <typename T>
struct View {
  T* data = nullptr;  // of the first of these channels at row 0, column 0
  std::size_t height = 0, width = 0, channels = 0;
  std::size_t pitch = 0;  // elements from one position to the next

  T* at(std::size_t row, std::size_t column) const { return data + (row * width + column) * pitch; }
  View channels_from(std::size_t start, std::size_t count) const { return {data + start, height, width, count, pitch}; }
  operator View<const T>() const { return {data, height, width, channels, pitch}; }
};

/// A grid [height, width, channels] that owns its elements.
template <typename T>
class Grid {
 public:
  Grid(std::size_t height, std::size_t width, std::size_t channels)
      : height_(height), width_(width), channels_(channels), values_(product_of({height, width, channels})) {}

  std::size_t height() const { return height_; }
  std::size_t width() const { return width_; }
  std::size_t channels() const { return channels_; }
  std::vector<T>& values() { return values_; }
  const std::vector<T>& values() const { return values_; }
  View<T> view() { return {values_.data(), height_, width_, channels_, channels_}; }
  View<const T> view() const { return {values_.data(), height_, width_, channels_, channels_}; }

 private:
  std::size_t height_, width_, channels_;
  std::vector<T> values_;
};

/// A place in a grid.
struct Position {
  std::uint32_t row, column;
};

/// Returns the column of a pass's place in the whole grid.
inline std::size_t column_of(Pass pass, std::size_t row, std::size_t squeezed_column) {
  const std::size_t first = (row % 2 == 0) == (pass == Pass::kAnchors) ? 1 : 0;
  return 2 * squeezed_column + first;
}

/// Returns the positions of a pass, squeezed.
Grid<std::uint16_t> squeeze(View<const std::uint16_t> grid, Pass pass);

/// Symbols of a pass that are coded together, with the table of one scale index.
struct Group {
  std::uint8_t scale_index;
  std::span<const std::uint32_t> numbers;  // of the symbols in the pass, rising
};

/// The groups of a pass in coding order.
class Groups {
 public:
  /// `scale_indices`: of each symbol of the pass by number.
  Groups(std::span<const std::uint8_t> scale_indices, std::size_t skip_below);

  const std::vector<Group>& all() const { return groups_; }

 private:
  std::vector<std::uint32_t> ordered_;
  std::vector<Group> groups_;
};

}  // namespace rdeic::entropy
