#include "bundle_tables.h"

#include <algorithm>
#include <optional>

#include "families/family.h"
#include "sha256.h"
#include "status.h"

namespace rdeic {
namespace {

void check_grids(const Bundle& bundle, const entropy::Model& model, const Rate& rate) {
  for (const auto& [name, position_px] : model.position_px()) {
    const std::string& graph_id = rate.graphs.at(bundle.family->latents().at(name));
    const std::optional<TensorGrid> grid = bundle.reference(graph_id).input(name)->grid();
    const std::size_t graph_px = grid ? bundle.size_multiple_px / grid->per_unit : 0;
    if (graph_px == position_px) continue;
    fail(Result::kBundleCorrupt,
         "%s: a position of %s is %u pixels, in the graph that reads it it is %zu. Get the bundle again, or export it "
         "again",
         rate.entropy.path.c_str(), name.c_str(), position_px, graph_px);
  }
}

}  // namespace

std::shared_ptr<const entropy::Model> model_of(const Bundle& bundle, const Rate& rate, const Arrays& arrays,
                                               std::span<const entropy::Kind> kinds) {
  std::shared_ptr<const entropy::Model> model = entropy::load(arrays, kinds);
  for (const Rate& other : bundle.rates) {
    if (other.entropy.path != rate.entropy.path || other.model_id == model->id()) continue;
    fail(Result::kBundleCorrupt, "%s: this is model %s, bundle.json says %s. Get the bundle again, or export it again",
         rate.entropy.path.c_str(), hex(model->id()).c_str(), hex(other.model_id).c_str());
  }
  for (const Rate& other : bundle.rates) {
    if (other.entropy.path == rate.entropy.path) check_grids(bundle, *model, other);
  }
  return model;
}

RowsByRole step_rows_of(const Bundle& bundle, const Rate& rate, const Schedule& schedule, const Arrays& arrays) {
  RowsByRole rows;
  for (const families::Role& role : bundle.family->roles()) {
    if (!role.inputs.contains(kStepInput) || role.encodes) continue;
    const GraphSpec& spec = bundle.reference(rate.graphs.at(role.name));
    rows.emplace(role.name, rows_of(arrays, role.name, schedule.n_steps(), spec, kStepInput));
  }
  return rows;
}

RowsByRole level_rows_of(const Bundle& bundle, const Rate& rate, const Arrays& arrays) {
  RowsByRole rows;
  for (const families::Role& role : bundle.family->roles()) {
    const auto& latents = bundle.family->latents();
    const bool reads_latents =
        std::any_of(latents.begin(), latents.end(), [&](const auto& latent) { return latent.second == role.name; });
    if (!role.at_a_level || !reads_latents) continue;
    const GraphSpec& spec = bundle.reference(rate.graphs.at(role.name));
    rows.emplace(role.name, rows_of(arrays, role.name, bundle.levels->count, spec, kLevelInput));
  }
  return rows;
}

}  // namespace rdeic
