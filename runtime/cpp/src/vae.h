#pragma once

#include "backends/ort.h"
#include "tensor.h"

namespace rdeic::vae {

/// Returns the padded picture, [1, h, w, 3], RGB, of z_0, [1, C, h/8, w/8]; scaling, rounding and layout are inside the
/// graph. `factor_px`: 8.
Tensor<std::uint8_t> decode(const backends::Graph& graph, const Tensor<float>& z_0);

}  // namespace rdeic::vae
