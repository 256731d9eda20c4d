#include "rows.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "status.h"

namespace rdeic {

Rows rows_of(const Arrays& arrays, const std::string& name, std::size_t count, const GraphSpec& spec,
             const std::string& input) {
  const std::int64_t width = spec.input(input)->shape.back().factor;  // bundle.cc has checked that it is a number
  const auto row_floats = static_cast<std::size_t>(width);
  const auto values = arrays.get<float>(name, {count, row_floats});
  if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) {
    fail(Result::kBundleCorrupt, "%s: array '%s' has a value that is not finite", arrays.what().c_str(), name.c_str());
  }
  Rows rows;
  for (std::size_t n = 0; n < count; ++n) {
    Tensor<float> row({1, width});
    std::copy_n(values.data() + n * row_floats, row_floats, row.data());
    rows.push_back(to_value(std::move(row)));
  }
  return rows;
}

}  // namespace rdeic
