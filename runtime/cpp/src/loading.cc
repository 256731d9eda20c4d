#include "loading.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "arrays.h"
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
    return model_of(*bundle_, rate, Arrays::read(rate.entropy, "entropy model"), kinds_);
  });
}

std::shared_ptr<const RowsByRole> Loaded::step_rows(const Rate& rate, const Schedule& schedule) {
  return step_rows_.get(std::to_string(rate.index) + " " + schedule.name, [this, &rate, &schedule] {
    const Arrays arrays = Arrays::read(rate.step_table(schedule.name));
    return std::make_shared<const RowsByRole>(step_rows_of(*bundle_, rate, schedule, arrays));
  });
}

Values Loaded::level_rows(const Rate& rate, std::uint32_t level) {
  Values rows;
  if (!bundle_->levels) return rows;
  // All rates have the same graphs, and so the same rows.
  const auto all = level_rows_.get({}, [this, &rate] {
    return std::make_shared<const RowsByRole>(level_rows_of(*bundle_, rate, Arrays::read(bundle_->levels->file)));
  });
  for (const auto& [role, of_role] : *all) rows.emplace(families::level_input(role), of_role.at(level));
  return rows;
}

std::shared_ptr<const backends::Graph> RateLoader::graph(const std::string& role) const {
  return std::make_shared<LazyGraph>(loaded_, loaded_.form_of(rate_, role));
}

ValuePtr RateLoader::step_row(const Schedule& schedule, const std::string& role, std::size_t step) const {
  return loaded_.step_rows(rate_, schedule)->at(role)[step];
}

}  // namespace rdeic
