#include "synthesis.h"

#include <algorithm>
#include <vector>

namespace rdeic::synthesis {

Features run(const backends::Graph& graph, const Tensor<float>& y_hat, const Tensor<float>* level,
             std::int64_t channels) {
  std::vector<backends::Value> values;
  values.push_back(backends::Value::of(y_hat));
  if (level != nullptr) values.push_back(backends::Value::of(*level));
  std::vector<backends::Binding> bindings = {{"y_hat", &values.front()}};
  if (level != nullptr) bindings.push_back({kLevelInput, &values.back()});
  const auto outputs = backends::by_name(graph, graph.run(bindings, backends::Place::kHost));
  // Two positions of the latent for one of y.
  const std::int64_t height = 2 * y_hat.shape()[2], width = 2 * y_hat.shape()[3];
  const auto hint = std::ranges::find(graph.spec().outputs, "hint", &TensorSpec::name);
  const std::int64_t hint_channels = hint->shape.size() == 4 ? hint->shape[1] : kDynamic;
  return {outputs.at("z_c").tensor<float>({1, channels, height, width}, "z_c of the synthesis graph"),
          outputs.at("hint").tensor<float>({1, hint_channels, height, width}, "hint of the synthesis graph")};
}

}  // namespace rdeic::synthesis
