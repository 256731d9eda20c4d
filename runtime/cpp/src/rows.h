#pragma once

// Rows of numbers that graphs read as an input of their own, [1, D]: one for each step, or for each level.

#include <cstddef>
#include <string>
#include <vector>

#include "arrays.h"
#include "bundle.h"
#include "value.h"

namespace rdeic {

/// Rows, float32, each [1, D].
using Rows = std::vector<ValuePtr>;

/// Returns the rows of an array, float32 [count, D]. `spec`, `input`: the graph and its input that reads them, which
/// has D. Throws Error(kBundleCorrupt), also if a value is not finite.
Rows rows_of(const Arrays& arrays, const std::string& name, std::size_t count, const GraphSpec& spec,
             const std::string& input);

}  // namespace rdeic
