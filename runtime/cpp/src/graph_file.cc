#include "graph_file.h"

#include <map>
#include <utility>

#include "graph_weights.h"

namespace rdeic {

GraphFile read_graph(const GraphSpec& spec) {
  GraphFile graph{spec.file.read(), {}};
  std::map<const BundleFile*, std::shared_ptr<const FileMap>> maps;
  for (LocatedWeight& weight : locate_weights(spec, graph.onnx)) {
    std::shared_ptr<const FileMap>& map = maps[weight.file];
    if (!map) map = weight.file->map();
    const auto values = map->bytes().subspan(static_cast<std::size_t>(weight.about.offset),
                                             static_cast<std::size_t>(weight.about.size_bytes));
    graph.weights.push_back({std::move(weight.about), values, map});
  }
  return graph;
}

}  // namespace rdeic
