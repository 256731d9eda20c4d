#pragma once

#include "backends/ort.h"
#include "tensor.h"

namespace rdeic::synthesis {

/// What the decoder knows of a picture.
struct Features {
  Tensor<float> z_c;   // [1, C, h/8, w/8], an estimate of the latent z_0
  Tensor<float> hint;  // [1, K, h/8, w/8], what the control net sees at every step
};

/// Returns the features of y_hat, [1, M, h/16, w/16], exact, from the entropy decoder. `level`: [1, D], what the graph
/// reads where it is of a bundle with levels, else nullptr; `channels`: C.
Features run(const backends::Graph& graph, const Tensor<float>& y_hat, const Tensor<float>* level,
             std::int64_t channels);

}  // namespace rdeic::synthesis
