#pragma once

// ONNX bytes -> the weights that lie in other files: a walk over the whole message, before any library sees it. What is
// accepted is what rdeic_rt/onnx_walk.py accepts, which also says why (docs/bundle.md, "Checks").
//
//   model -> main graph -> weight                       may name a listed file of the bundle
//              '-> node -> attribute -> tensor          must hold its own values, as in functions, subgraphs, sparse
//                                 '-> graph -> ...      tensors and training graphs

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace rdeic {

/// An initialiser of the main graph whose values lie in another file.
struct ExternalWeight {
  std::string name;
  std::string location;  // as the graph gives it; nothing has been looked up
  std::uint64_t offset = 0;
  std::uint64_t size_bytes = 0;     // what type and shape take, 1 or more
  std::int32_t data_type = 0;       // ONNX's number, which is also ONNX Runtime's
  std::vector<std::int64_t> shape;  // each 1 or more
};

/// Returns the weights that an ONNX file keeps in other files, in its order; `where` begins messages. Throws
/// Error(kBundleCorrupt) if it is no ONNX model, could be read in two ways, names a file elsewhere than in an
/// initialiser of the main graph, or describes such a weight incompletely or twice.
std::vector<ExternalWeight> external_weights(std::span<const std::uint8_t> data, const std::string& where);

}  // namespace rdeic
