#include "placement.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "status.h"

namespace rdeic {

std::vector<ValuePtr> Placement::each(const Stage& stage, Values inputs) {
  std::erase_if(inputs, [](const auto& input) { return input.second == nullptr; });
  if (!stage.finite.empty()) {
    const auto values = elements<float>(*inputs.at(stage.finite), stage.finite.c_str());
    if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }))
      fail(Result::kBundleCorrupt,
           "denoising returned values that are not finite: the bundle's weights or its schedule are unusable, or the "
           "sharpness is far too large");
  }
  return run(stage, inputs);
}

std::vector<ValuePtr> Whole::run(const Stage& stage, const Values& inputs) {
  if (stage.part) progress_.begin(*stage.part);
  return stage.run(inputs);
}

std::vector<ValuePtr> Tiled::run(const Stage& stage, const Values& inputs) {
  std::vector<tiles::Canvas> canvases;
  for (const TensorSpec& output : stage.outputs) canvases.emplace_back(tiling_, output);
  tiles::for_each(tiling_, [&](tiles::Tile tile) {
    if (stage.part) tile.is_first() ? progress_.begin(*stage.part) : progress_.go_on(*stage.part);
    Values pieces;
    for (const auto& [name, value] : inputs) {
      pieces.emplace(name, tiles::crop(value, stage.inputs.at(name), tiling_, tile));
    }
    const std::vector<ValuePtr> outputs = stage.run(pieces);
    for (std::size_t i = 0; i < canvases.size(); ++i) canvases[i].add(tile, outputs[i]);
  });
  std::vector<ValuePtr> whole;
  for (tiles::Canvas& canvas : canvases) whole.push_back(canvas.take());
  return whole;
}

}  // namespace rdeic
