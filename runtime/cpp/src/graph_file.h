#pragma once

// A graph's file -> the bytes that a backend may load: read once, hashed, walked, its weights mapped.
//
//   bundle.json -> GraphSpec -> bytes -> length, SHA-256 -> onnx_walk -> listed files of weights -> GraphFile ->
//   backend
//
// The backend makes its session of what is returned here and opens no file itself, so that a graph can make no library
// open one (docs/bundle.md, "Checks").

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "bundle.h"
#include "bundle_file.h"
#include "onnx_walk.h"

namespace rdeic {

/// A weight of a graph, and its values.
struct MappedWeight {
  ExternalWeight about;
  std::span<const std::uint8_t> values;
  std::shared_ptr<const FileMap> map;  // where the values lie
};

/// A checked graph. Initialisers of the main graph that are among the weights hold no values in `onnx`; nothing else in
/// it refers to a file.
struct GraphFile {
  std::vector<std::uint8_t> onnx;
  std::vector<MappedWeight> weights;
};

/// Returns a graph, checked. Throws Error: kBundleCorrupt if a file is missing or has changed, the graph is no ONNX
/// file that a bundle may have, or has weights elsewhere than in a listed file; kIo.
GraphFile read_graph(const GraphSpec& spec);

}  // namespace rdeic
