#pragma once

// The integer hyper and context networks: which layers there are, and how they follow each other.
//
//   hyper        codebook[index] - hyper.0 - hyper.1 - ...          (blocks, each drawn at `HyperBlock`)
//   contexts     y_hat of slices before i - channel.<i>.0 - .1 - .2        anchors of slice i - local.<i>
//   parameters   hyper, contexts - anchor.<i>.0 - .1 - .2 -> scales, means        (likewise nonanchor.<i>)
//
// The names are those of the arrays in a bundle's entropy .npz (docs/format.md, "Networks").

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "entropy/layers.h"

namespace rdeic::entropy {

/// A residual block, which may double the grid:
///
///   x -+- first - (shuffle) - second - leaky -+
///      +- skip - (shuffle) ------------------ + - out
class HyperBlock {
 public:
  HyperBlock(ModelReader& reader, const std::string& name, std::size_t channels, bool doubles);

  std::size_t outputs() const { return second_.outputs(); }
  Grid<std::uint16_t> operator()(const Compute& compute, const Grid<std::uint16_t>& x) const;

 private:
  bool doubles_;
  Layer first_, second_, skip_;
  std::int32_t slope_;  // of leaky, in units of 2^-16
  Rescale out_;
};

/// VQ indices -> hyper parameters of y.
class HyperNet {
 public:
  static constexpr std::size_t kScale = 4;  // how much finer the grid of its outputs is than that of the indices

  HyperNet(ModelReader& reader, std::size_t codes);

  std::size_t width() const { return blocks_.back().outputs(); }
  /// Returns [4 hz, 4 wz, width] of hz x wz indices, each less than the number of codes.
  Grid<std::uint16_t> operator()(const Compute& compute, std::span<const std::int32_t> indices, std::size_t hz,
                                 std::size_t wz) const;

 private:
  std::vector<std::uint16_t> codebook_;  // [codes, code_width_]
  std::size_t code_width_ = 0;
  std::vector<HyperBlock> blocks_;
};

/// The networks that predict one slice of y, and how its y_hat becomes a tensor for the contexts of this and later
/// ones.
class SliceNets {
 public:
  /// Slice `index` is the channels from `start` on, `width` of them.
  SliceNets(ModelReader& reader, std::size_t index, std::size_t start, std::size_t width, std::size_t hyper_width);

  std::size_t start() const { return start_; }
  std::size_t width() const { return width_; }
  bool has_channel_context() const { return !channel_.empty(); }
  std::span<const std::uint16_t> zero() const { return zero_; }  // what 0 becomes in the tensor
  const Rescale& quantise() const { return quantise_; }

  /// Returns the context from earlier slices in y [H, W, M]; only if there is one.
  Grid<std::uint16_t> channel_context(const Compute& compute, View<const std::uint16_t> y) const;
  /// Returns the context from this slice's anchors at the non-anchors, [H, W/2, n].
  Grid<std::uint16_t> local_context(const Compute& compute, View<const std::uint16_t> y) const;
  /// Returns scales, then means, of a pass, [H, W/2, 2 * width], of its contexts, each [H, W/2, n].
  Grid<std::int32_t> parameters(const Compute& compute, std::span<const View<const std::uint16_t>> contexts,
                                Pass pass) const;

 private:
  std::size_t start_, width_;
  Rescale quantise_;
  std::vector<std::uint16_t> zero_;
  std::vector<Layer> channel_;  // empty for the first slice
  Layer local_;
  std::vector<Layer> anchor_, nonanchor_;
};

}  // namespace rdeic::entropy
