#include "graph_weights.h"

#include <cinttypes>
#include <string>
#include <utility>

#include "status.h"

namespace rdeic {

std::vector<LocatedWeight> locate_weights(const GraphSpec& spec, std::span<const std::uint8_t> onnx) {
  std::vector<LocatedWeight> weights;
  for (ExternalWeight& weight : external_weights(onnx, spec.file.path.string())) {
    const std::string what = text("%s: weight '%s' lies in '%s'", spec.file.path.c_str(),
                                  printable(weight.name).c_str(), printable(weight.location).c_str());
    const BundleFile* const file = spec.weights_at(weight.location);
    if (file == nullptr) fail(Result::kBundleCorrupt, "%s, which is not among the bundle's files", what.c_str());
    const std::uint64_t end = weight.offset + weight.size_bytes;  // of 18 digits each
    if (end > file->size_bytes)
      fail(Result::kBundleCorrupt, "%s up to byte %" PRIu64 ", which has %" PRIu64, what.c_str(), end,
           file->size_bytes);
    weights.push_back({std::move(weight), file});
  }
  return weights;
}

}  // namespace rdeic
