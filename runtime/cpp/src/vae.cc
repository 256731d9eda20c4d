#include "vae.h"

#include <array>

namespace rdeic::vae {

Tensor<std::uint8_t> decode(const backends::Graph& graph, const Tensor<float>& z_0) {
  const backends::Value input = backends::Value::of(z_0);
  const std::array bindings = {backends::Binding{"z_0", &input}};
  const auto outputs = backends::by_name(graph, graph.run(bindings, backends::Place::kHost));
  const std::int64_t height = 8 * z_0.shape()[2], width = 8 * z_0.shape()[3];
  return outputs.at("image").tensor<std::uint8_t>({1, height, width, 3}, "image of the vae_decoder graph");
}

}  // namespace rdeic::vae
