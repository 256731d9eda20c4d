#include "backends/backend.h"

#include <algorithm>

#include "status.h"

namespace rdeic::backends {

Values run_checked(const Graph& graph, const Values& inputs, Location location) {
  const GraphSpec& spec = graph.spec();
  Values outputs = graph.run(inputs, location);
  Sizes sizes;
  for (const TensorSpec& input : spec.inputs) input.read_sizes(inputs.at(input.name)->shape(), sizes);
  for (const TensorSpec& output : spec.outputs) {
    const Value& made = *outputs.at(output.name);
    const Shape wanted = output.resolve(sizes);
    if (made.dtype() == output.dtype && made.shape() == wanted) continue;
    fail(Result::kBundleCorrupt, "graph '%s' in %s returned %s as %s %s, should return %s %s",
         printable(spec.id).c_str(), spec.file.path.c_str(), printable(output.name).c_str(), dtype_name(made.dtype()),
         shape_text(made.shape()).c_str(), dtype_name(output.dtype), shape_text(wanted).c_str());
  }
  return outputs;
}

const GraphSpec& choose_form(const Backend& backend, const Bundle& bundle, const std::string& graph_id,
                             const std::string& precision) {
  if (precision != kAuto &&
      std::find(std::begin(kPrecisions), std::end(kPrecisions), precision) == std::end(kPrecisions)) {
    fail(Result::kInvalidArgument, "precision '%s' is not one of: auto, fp32, fp16, int8",
         printable(precision).c_str());
  }
  const auto& have = bundle.graphs.at(graph_id);
  const auto can_run = backend.forms();
  for (const std::string& form : bundle.preference(backend.name(), precision)) {
    const auto found = have.find(form);
    if (found != have.end() && std::find(can_run.begin(), can_run.end(), form) != can_run.end()) return found->second;
  }
  std::string forms;
  for (const auto& [form, spec] : have) forms += (forms.empty() ? "" : " and ") + form;
  fail(Result::kBackendUnavailable,
       "%s: bundle '%s' has its graph '%s' in %s, which is nothing to run with precision %s", backend.name().c_str(),
       printable(bundle.name).c_str(), printable(graph_id).c_str(), forms.c_str(), precision.c_str());
}

}  // namespace rdeic::backends
