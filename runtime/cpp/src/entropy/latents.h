#pragma once

// Exact entropy decoding of y and the VQ indices: the loop over slices and passes. Integers only inside.
//
//   indices - hyper --> h ------------+-------------------------+
//   slices before - channel context - c                         |
//                                     +- anchors --> (s, m) - coder --> y_hat of the anchors - local context - l
//                                     +- non-anchors (h, c, l) --> (s, m) - coder --> y_hat of the slice
//
// Encoder and decoder run the same networks on the same integers, so both see the same scales s and means m, on every
// machine (docs/format.md, "Entropy coding").

#include <cstdint>
#include <functional>
#include <vector>

#include "container.h"
#include "entropy/model.h"
#include "tensor.h"

namespace rdeic::entropy {

struct DecodedLatents {
  Tensor<float> y_hat;                // [1, M, 4 hz, 4 wz]
  std::vector<std::int32_t> indices;  // [hz, wz]
  std::uint32_t complete_slices;      // how many are as in the whole file, from the first on
};

/// Called before each slice with its number; what it throws ends the decoding.
using BeforeSlice = std::function<void(std::size_t slice)>;

/// Returns y_hat exactly as the encoder had it, for a file of hz x wz VQ indices. Of a file whose y section has lost
/// its end, groups of symbols that are not certain are 0, which leaves their means. Throws Error(kBitstream) if the
/// sections are not what an encoder writes for any y and indices of this size.
DecodedLatents decode_latents(const Machine& machine, const Model& model, const File& file, std::size_t hz,
                              std::size_t wz, const BeforeSlice& before_slice = {});

}  // namespace rdeic::entropy
