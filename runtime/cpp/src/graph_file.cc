#include "graph_file.h"

#include <cinttypes>
#include <map>
#include <string>

#include "status.h"

namespace rdeic {

GraphFile read_graph(const GraphSpec& spec) {
  GraphFile graph{spec.file.read(), {}};
  std::map<std::string, std::shared_ptr<const FileMap>> maps;
  for (ExternalWeight& weight : external_weights(graph.onnx, spec.file.path.string())) {
    const std::string what = text("%s: weight '%s' lies in '%s'", spec.file.path.c_str(),
                                  printable(weight.name).c_str(), printable(weight.location).c_str());
    const BundleFile* const file = spec.weights_at(weight.location);
    if (file == nullptr) fail(Result::kBundleCorrupt, "%s, which is not among the bundle's files", what.c_str());
    const std::uint64_t end = weight.offset + weight.size_bytes;  // of 18 digits each
    if (end > file->size_bytes)
      fail(Result::kBundleCorrupt, "%s up to byte %" PRIu64 ", which has %" PRIu64, what.c_str(), end,
           file->size_bytes);
    std::shared_ptr<const FileMap>& map = maps[weight.location];
    if (!map) map = file->map();
    const auto values =
        map->bytes().subspan(static_cast<std::size_t>(weight.offset), static_cast<std::size_t>(weight.size_bytes));
    graph.weights.push_back({std::move(weight), values, map});
  }
  return graph;
}

}  // namespace rdeic
