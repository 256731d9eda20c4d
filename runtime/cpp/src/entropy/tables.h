#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "entropy/coder.h"
#include "entropy/indices.h"
#include "entropy/model_reader.h"

namespace rdeic::entropy {

inline constexpr std::size_t kScales = 64;

/// Fixed-point tables of a model: how symbols of y and VQ indices are distributed.
class Tables {
 public:
  /// Reads scale_*, skip_below and prior_masses.
  explicit Tables(ModelReader& reader);

  /// The table of a scale index; indices under `skip_below` have one, too.
  const GaussianTable& gaussian(std::size_t scale_index) const { return gaussians_[scale_index]; }
  /// Symbols of a smaller scale index are not coded, and are 0.
  std::size_t skip_below() const { return skip_below_; }
  const IndexCoder& indices() const { return indices_; }

  /// Returns the scale index, 0 ... 63, of a scale on the grid of the networks; of those under `skip_below`, which
  /// nothing depends on, any that is under it.
  std::uint8_t scale_index(std::int32_t scale) const;

 private:
  std::array<std::int32_t, kScales - 1> thresholds_;
  std::size_t skip_below_;
  std::vector<GaussianTable> gaussians_;
  IndexCoder indices_;
};

}  // namespace rdeic::entropy
