#pragma once

// Where the weights lie that a graph keeps in other files of its bundle.

#include <cstdint>
#include <span>
#include <vector>

#include "bundle.h"
#include "onnx_walk.h"

namespace rdeic {

/// A weight of a graph, and the listed file that holds its values, from `offset` on.
struct LocatedWeight {
  ExternalWeight about;
  const BundleFile* file;
};

/// Returns the weights that a graph's file keeps in others. Throws Error(kBundleCorrupt) if it is no ONNX file that a
/// bundle may have, or has weights elsewhere than in a listed file.
std::vector<LocatedWeight> locate_weights(const GraphSpec& spec, std::span<const std::uint8_t> onnx);

}  // namespace rdeic
