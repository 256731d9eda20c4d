#pragma once

// Integer layers, and the rule that makes them exact (docs/format.md, "Integer layers").
//
// A tensor holds x, 0 <= x <= 65535, and its high byte h = x >> 8. An input of a layer is coarse, with weights u, or
// fine, with weights u and v. A layer computes, per output and in 64-bit integers,
//
//   acc = sum of u * h                           (coarse)
//   acc = sum of 128 * u * x + 256 * v * h       (fine)
//   t   = (sum over its inputs of mult * acc  +  offset) >> shift
//
// and ends in one of three ways: a table of clip(t, -2048, 2047), clip(t, 0, 65535), or clip(t, -2^20, 2^20 - 1).
// Nothing is a float, so the order of sums, the number of threads and the instruction set cannot change a result.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "entropy/matmul.h"
#include "entropy/model_reader.h"
#include "entropy/order.h"
#include "entropy/workers.h"

namespace rdeic::entropy {

inline constexpr std::int32_t kMaxLevel = 65535;
inline constexpr std::int32_t kWideLimit = 1 << 20;

/// What networks run on: kernels of this CPU, and threads.
struct Compute {
  const Kernels& kernels;
  Workers& workers;
  /// Called in the thread that decodes, before each so many products of two numbers, or work that takes as long; what
  /// it throws ends the work.
  std::function<void(std::uint64_t products)> go_on = {};

  void ask(std::uint64_t products) const {
    if (go_on) go_on(products);
  }
};

/// One input of a layer: its weights, and what brings the sum to the layer's grid.
class Input {
 public:
  /// Reads the arrays <name>.weight, .weight_low, .mult and .zero; `outputs` may be kAnyLength.
  Input(ModelReader& reader, const std::string& name, std::size_t channels, std::size_t outputs);

  std::size_t outputs() const { return mult_.size(); }
  std::size_t kernel() const { return kernel_; }
  /// Returns what padding takes, by channel; nothing where the kernel is 1x1.
  std::span<const std::uint16_t> zero() const { return zero_; }
  /// Returns how many products of a byte and a weight a position takes.
  std::uint64_t products() const { return std::uint64_t{kernel_} * kernel_ * channels_ * outputs() * (fine_ ? 3 : 1); }
  /// Returns the largest magnitude of acc * mult for an output.
  double bound(std::size_t output) const;

  /// The bytes of a grid, with padding around it, as kernels read them.
  struct Planes {
    std::vector<std::uint8_t> high, low;  // low is empty for a coarse input
    std::size_t width = 0;                // with padding
  };
  Planes planes(View<const std::uint16_t> grid) const;

  /// Adds acc * mult to t, rows of outputs() numbers, for each position. `sums` is scratch.
  void add(const Kernels& kernels, const Planes& planes, std::span<const Position> positions, std::int64_t* t,
           std::vector<std::int32_t>& sums) const;

 private:
  std::size_t channels_;
  std::size_t kernel_ = 1;
  bool fine_ = false;
  std::vector<std::int32_t> mult_;
  std::vector<std::uint16_t> zero_;       // what padding takes; empty where kernel_ is 1
  std::optional<PackedWeights> of_high_;  // u, and v beside it for a fine input
  std::optional<PackedWeights> of_low_;   // u, for a fine input
};

/// What is added to a layer's sums, and how far they are shifted.
struct Requantisation {
  std::vector<std::int64_t> offset;
  unsigned shift = 0;
};

/// A convolution, or a sum of convolutions of several inputs, with its requantisation and its end.
class Layer {
 public:
  /// Reads the arrays <name>.*; `parts` are what follows the name in the names of each input's arrays, and `widths` the
  /// channels of each. `outputs` may be kAnyLength; `lut`: whether the layer ends in a table.
  Layer(ModelReader& reader, const std::string& name, std::span<const std::size_t> widths, std::size_t outputs,
        bool lut, std::span<const char* const> parts);
  Layer(ModelReader& reader, const std::string& name, std::size_t width, std::size_t outputs, bool lut);

  std::size_t outputs() const { return requantisation_.offset.size(); }
  const std::vector<Input>& inputs() const { return inputs_; }

  /// Returns the layer's tensor, [H, W, outputs], or, where `pass` says so, the positions of a pass alone, [H, W/2,
  /// outputs].
  Grid<std::uint16_t> levels(const Compute& compute, std::span<const View<const std::uint16_t>> grids,
                             std::optional<Pass> pass = {}) const;
  Grid<std::uint16_t> levels(const Compute& compute, View<const std::uint16_t> grid,
                             std::optional<Pass> pass = {}) const;
  /// Returns the layer's wide integers, [H, W, outputs].
  Grid<std::int32_t> wide(const Compute& compute, View<const std::uint16_t> grid) const;

 private:
  template <typename T, typename Finish>
  Grid<T> run(const Compute& compute, std::span<const View<const std::uint16_t>> grids, std::optional<Pass> pass,
              Finish finish) const;

  std::vector<Input> inputs_;
  Requantisation requantisation_;
  std::vector<std::uint16_t> lut_;  // empty: none
};

/// Wide integers to a tensor, by channel: clip((w * mult + offset) >> shift, 0, 65535).
class Rescale {
 public:
  /// Reads the arrays <name>.* for integers of magnitude <= value_limit.
  Rescale(ModelReader& reader, const std::string& name, std::size_t channels, double value_limit);

  std::uint16_t operator()(std::int32_t value, std::size_t channel) const;

 private:
  std::vector<std::int32_t> mult_;
  Requantisation requantisation_;
};

}  // namespace rdeic::entropy
