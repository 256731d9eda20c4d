#pragma once

#include <cstdint>

#include "tensor.h"

namespace rdeic {

/// Returns standard normal noise, filled in C order, the same on every machine to 1e-6 (docs/format.md, "Noise").
///
/// Each draw has a key of its own, so any can be made without the others: draw 0 is the noise that denoising starts
/// from, draw k + 1 the noise that step k adds.
Tensor<float> gaussian(const Shape& shape, std::uint64_t seed, std::uint64_t draw);

}  // namespace rdeic
