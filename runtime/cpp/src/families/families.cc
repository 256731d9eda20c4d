#include <algorithm>
#include <cmath>
#include <utility>

#include "families/diffo.h"
#include "families/family.h"
#include "families/rdeic.h"

namespace rdeic::families {

Table table() {
  static const Family* const kFamilies[] = {&rdeic(), &diffo()};
  return kFamilies;
}

const Family* find(Table among, const std::string& name) {
  const auto found =
      std::find_if(among.begin(), among.end(), [&](const Family* family) { return family->name() == name; });
  return found == among.end() ? nullptr : *found;
}

std::string level_input(const std::string& role) { return role + "." + kLevelInput; }

ValuePtr value_or_null(const Values& values, const std::string& name) {
  const auto found = values.find(name);
  return found == values.end() ? nullptr : found->second;
}

Stage graph_stage(Part part, const Loader& load, const std::string& role, const std::vector<std::string>& outputs) {
  const std::shared_ptr<const backends::Graph> graph = load.graph(role);
  Stage stage{.part = part, .graphs = {graph}};
  for (const TensorSpec& input : graph->spec().inputs) stage.inputs[input.name] = input;
  for (const std::string& output : outputs) stage.outputs.push_back(*graph->spec().output(output));
  stage.run = [graph, outputs](const Values& inputs) {
    const Values made = backends::run_checked(*graph, inputs, backends::Location::kHost);
    std::vector<ValuePtr> result;
    for (const std::string& output : outputs) result.push_back(made.at(output));
    return result;
  };
  return stage;
}

ValuePtr combine(const Value& x, const Value& y, std::array<float, 2> weights) {
  const auto xs = elements<float>(x, "z"), ys = elements<float>(y, "z");
  Tensor<float> out(x.shape());
  for (std::size_t i = 0; i < out.size(); ++i) out.data()[i] = weights[0] * xs[i] + weights[1] * ys[i];
  return to_value(std::move(out));
}

Stage start_stage(const Schedule& schedule, const TensorSpec& latent) {
  const std::array weights = {static_cast<float>(std::sqrt(schedule.abar_start)),
                              static_cast<float>(std::sqrt(1 - schedule.abar_start))};
  return {.part = {},
          .inputs = {{"z_c", latent}, {"noise", latent}},
          .outputs = {latent},
          .run = [weights](const Values& inputs) -> std::vector<ValuePtr> {
            return {combine(*inputs.at("z_c"), *inputs.at("noise"), weights)};
          }};
}

}  // namespace rdeic::families
