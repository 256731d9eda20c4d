#pragma once

// Exact products of bytes and small weights, added up in 32 bits: what every integer layer is made of.
//
// Kernels differ in speed alone. That |weight| <= 64 lets AVX2 add two products in 16 bits: 2 * 255 * 64 < 2^15.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace rdeic::entropy {

/// Outputs that are computed side by side, and products that are added up before the next broadcast.
inline constexpr std::size_t kBlock = 16;
inline constexpr std::size_t kDepth = 4;

/// A matrix of weights [segments * segment, outputs] as the kernels read it: blocks of 16 outputs; in a block, groups
/// of 4 rows; in a group, the 4 weights of each output. Segments are filled up to groups, and outputs to blocks, by
/// zeros.
class PackedWeights {
 public:
  /// `weights`: matrices of the same shape, rows of `outputs` each, that are laid side by side.
  PackedWeights(std::span<const std::span<const std::int8_t>> weights, std::size_t segments, std::size_t outputs);

  std::size_t segments() const { return segments_; }
  std::size_t groups() const { return groups_; }  // in a segment
  std::size_t blocks() const { return blocks_; }
  std::size_t columns() const { return blocks_ * kBlock; }
  const std::int8_t* block(std::size_t index) const {
    return data_.data() + index * segments_ * groups_ * kBlock * kDepth;
  }

 private:
  std::size_t segments_, groups_, blocks_;
  std::vector<std::int8_t> data_;
};

/// out[i, j] = sum of inputs[i][s * stride + n] * weight[s, n, j] over segments s and n, for `out` of rows of columns()
/// numbers. Up to 3 bytes after each segment are read, and multiplied by zero.
using Kernel = void (*)(std::span<const std::uint8_t* const> inputs, std::size_t stride, const PackedWeights& weights,
                        std::int32_t* out);

/// What one layer adds up, for `n` outputs, in 64 bits:
///   t += (high << high_shift + [low << 7] + [fine << 8]) * mult, where low and fine may be null.
using Accumulate = void (*)(std::int64_t* t, std::size_t n, const std::int32_t* mult, const std::int32_t* high,
                            const std::int32_t* low, const std::int32_t* fine);

/// Kernels of one instruction set.
struct Kernels {
  const char* name;
  Kernel product;
  Accumulate accumulate;
};

/// Returns the kernels that this CPU can run, the fastest first; the last is portable.
std::span<const Kernels> available_kernels();

}  // namespace rdeic::entropy
