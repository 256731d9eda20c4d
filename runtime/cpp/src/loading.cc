#include "loading.h"

#include <algorithm>
#include <exception>
#include <optional>
#include <utility>

#include "arrays.h"
#include "sha256.h"
#include "status.h"

namespace rdeic {
namespace {

/// A graph that is loaded when it is first run.
class LazyGraph final : public backends::Graph {
 public:
  LazyGraph(Loaded& loaded, const GraphSpec& spec) : loaded_(loaded), spec_(spec) {}

  const GraphSpec& spec() const override { return spec_; }
  Values run(const Values& inputs, backends::Location outputs) const override {
    return loaded_.graph(spec_)->run(inputs, outputs);
  }

 private:
  Loaded& loaded_;
  const GraphSpec& spec_;
};

std::string key_of(const GraphSpec& spec) { return spec.form + " " + spec.id; }

/// Returns the size of a graph's file, and of the one beside it that has weights where there is one.
std::uint64_t bytes_of(const GraphSpec& spec) {
  const BundleFile* const weights = spec.weights_at(spec.file.path.filename().string() + ".data");
  return spec.file.size_bytes + (weights == nullptr ? 0 : weights->size_bytes);
}

}  // namespace

Loaded::Loaded(std::shared_ptr<const Bundle> bundle, std::unique_ptr<const backends::Backend> backend,
               std::string precision, std::span<const entropy::Kind> kinds)
    : bundle_(std::move(bundle)), backend_(std::move(backend)), precision_(std::move(precision)), kinds_(kinds) {
  std::exception_ptr failure;
  for (const Rate& rate : bundle_->rates) {
    try {
      for (const families::Role& role : bundle_->family->roles()) {
        if (!role.encodes) form_of(rate, role.name);
      }
      return;
    } catch (const Error&) {
      if (!failure) failure = std::current_exception();
    }
  }
  std::rethrow_exception(failure);
}

const GraphSpec& Loaded::form_of(const Rate& rate, const std::string& role) const {
  return backends::choose_form(*backend_, *bundle_, rate.graphs.at(role), precision_);
}

LoadOnce<backends::Graph>::Make Loaded::maker_of(const GraphSpec& spec) const {
  return [this, &spec]() -> std::shared_ptr<const backends::Graph> { return backend_->load(spec); };
}

std::shared_ptr<const backends::Graph> Loaded::graph(const GraphSpec& spec) {
  return graphs_.get(key_of(spec), maker_of(spec));
}

void Loaded::begin(const families::StageList& list) {
  std::vector<const GraphSpec*> specs;
  for (const Stage* const stage : list.stages()) {
    for (const auto& graph : stage->graphs) {
      if (std::ranges::find(specs, &graph->spec()) == specs.end()) specs.push_back(&graph->spec());
    }
  }
  // The largest takes longest, so it is loaded beside the others, which come in the order that they are needed in.
  const auto largest = std::ranges::max_element(specs, {}, [](const GraphSpec* spec) { return bytes_of(*spec); });
  graphs_.begin(key_of(**largest), maker_of(**largest));
  LoadOnce<backends::Graph>::Future last;
  for (const GraphSpec* const spec : specs) {
    if (spec != *largest) last = graphs_.begin(key_of(*spec), maker_of(*spec), last);
  }
}

std::shared_ptr<const entropy::Model> Loaded::model(const Rate& rate) {
  return models_.get(rate.entropy.path.string(), [this, &rate] {
    std::shared_ptr<const entropy::Model> model = entropy::load(Arrays::read(rate.entropy, "entropy model"), kinds_);
    for (const Rate& other : bundle_->rates) {
      if (other.entropy.path != rate.entropy.path || other.model_id == model->id()) continue;
      fail(Result::kBundleCorrupt,
           "%s: this is model %s, bundle.json says %s. Get the bundle again, or export it again",
           rate.entropy.path.c_str(), hex(model->id()).c_str(), hex(other.model_id).c_str());
    }
    for (const Rate& other : bundle_->rates) {
      if (other.entropy.path == rate.entropy.path) check_grids(*model, other);
    }
    return model;
  });
}

void Loaded::check_grids(const entropy::Model& model, const Rate& rate) const {
  for (const auto& [name, position_px] : model.position_px()) {
    const std::string& graph_id = rate.graphs.at(bundle_->family->latents().at(name));
    const std::optional<TensorGrid> grid = bundle_->reference(graph_id).input(name)->grid();
    const std::size_t graph_px = grid ? bundle_->size_multiple_px / grid->per_unit : 0;
    if (graph_px == position_px) continue;
    fail(Result::kBundleCorrupt,
         "%s: a position of %s is %u pixels, in the graph that reads it it is %zu. Get the bundle again, or export it "
         "again",
         rate.entropy.path.c_str(), name.c_str(), position_px, graph_px);
  }
}

std::shared_ptr<const std::map<std::string, Rows>> Loaded::step_rows(const Rate& rate, const Schedule& schedule) {
  return step_rows_.get(std::to_string(rate.index) + " " + schedule.name, [this, &rate, &schedule] {
    const Arrays arrays = Arrays::read(rate.step_table(schedule.name));
    auto rows = std::make_shared<std::map<std::string, Rows>>();
    for (const families::Role& role : bundle_->family->roles()) {
      if (!role.inputs.contains(kStepInput) || role.encodes) continue;
      const GraphSpec& spec = bundle_->reference(rate.graphs.at(role.name));
      rows->emplace(role.name, rows_of(arrays, role.name, schedule.n_steps(), spec, kStepInput));
    }
    return rows;
  });
}

Values Loaded::level_rows(const Rate& rate, std::uint32_t level) {
  Values rows;
  if (!bundle_->levels) return rows;
  for (const families::Role& role : bundle_->family->roles()) {
    const bool reads_latents =
        std::ranges::any_of(bundle_->family->latents(), [&](const auto& latent) { return latent.second == role.name; });
    if (!role.at_a_level || !reads_latents) continue;
    const auto all = level_rows_.get(role.name, [&] {
      const Levels& levels = *bundle_->levels;
      return std::make_shared<const Rows>(rows_of(Arrays::read(levels.file), role.name, levels.count,
                                                  bundle_->reference(rate.graphs.at(role.name)), kLevelInput));
    });
    rows.emplace(families::level_input(role.name), all->at(level));
  }
  return rows;
}

std::shared_ptr<const backends::Graph> RateLoader::graph(const std::string& role) const {
  return std::make_shared<LazyGraph>(loaded_, loaded_.form_of(rate_, role));
}

ValuePtr RateLoader::step_row(const Schedule& schedule, const std::string& role, std::size_t step) const {
  return loaded_.step_rows(rate_, schedule)->at(role)[step];
}

}  // namespace rdeic
