#include "synthesis.h"

#include <algorithm>
#include <array>

namespace rdeic::synthesis {

Features run(const backends::Graph& graph, const Tensor<float>& y_hat, std::int64_t channels) {
  const backends::Value input = backends::Value::of(y_hat);
  const std::array bindings = {backends::Binding{"y_hat", &input}};
  const auto outputs = backends::by_name(graph, graph.run(bindings, backends::Place::kHost));
  // Two positions of the latent for one of y.
  const std::int64_t height = 2 * y_hat.shape()[2], width = 2 * y_hat.shape()[3];
  const auto hint = std::ranges::find(graph.spec().outputs, "hint", &TensorSpec::name);
  const std::int64_t hint_channels = hint->shape.size() == 4 ? hint->shape[1] : kDynamic;
  return {outputs.at("z_c").tensor<float>({1, channels, height, width}, "z_c of the synthesis graph"),
          outputs.at("hint").tensor<float>({1, hint_channels, height, width}, "hint of the synthesis graph")};
}

}  // namespace rdeic::synthesis
