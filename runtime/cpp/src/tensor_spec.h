#pragma once

// What bundle.json says of one tensor: name, type and symbolic shape (docs/bundle.md, "Shapes").

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dtype.h"
#include "tensor.h"

namespace rdeic {

/// Sizes of the free dimensions: the batch, and the padded image's height and width in units.
struct Sizes {
  std::int64_t batch = 1, hz = 1, wz = 1;
};

/// One dimension: a number, or a multiple of a free one.
struct Dim {
  enum class Free { kNone, kBatch, kRows, kColumns };

  Free free = Free::kNone;
  std::int64_t factor = 1;  // the number itself where nothing is free

  bool operator==(const Dim&) const = default;
  bool is_fixed() const { return free == Free::kNone; }
};

/// How a tensor lies over the image.
struct TensorGrid {
  std::size_t axis;        // of its rows; its columns are the next
  std::uint32_t per_unit;  // positions along a side for each unit, `size_multiple_px` pixels of the padded image
};

/// One input or output of a graph.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<Dim> shape;

  /// Returns how it lies over the image; nothing for a tensor that is the same for all sizes.
  std::optional<TensorGrid> grid() const;
  /// Returns the shape for these sizes.
  Shape resolve(const Sizes& sizes) const;
  /// Sets the sizes of the free dimensions of an array that is this tensor, and leaves others as they are.
  void read_sizes(const Shape& shape, Sizes& sizes) const;
  /// Returns what is wrong with the shape for units of so many pixels, or nothing if it follows docs/bundle.md.
  std::optional<std::string> fault(std::uint32_t unit_px) const;
  /// Returns "float32 [batch, 8, 8*hz, 8*wz]".
  std::string description() const;
};

/// Returns the dimension that a text stands for; nothing if it is none.
std::optional<Dim> free_dim(const std::string& text);

}  // namespace rdeic
