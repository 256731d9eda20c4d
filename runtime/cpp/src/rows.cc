#include "rows.h"

#include <algorithm>
#include <cmath>

#include "status.h"

namespace rdeic {

std::vector<Tensor<float>> rows_of(const Arrays& arrays, const std::string& name, std::size_t count,
                                   const GraphSpec& spec, const std::string& input) {
  const TensorSpec* read = spec.input(input);
  const std::int64_t width = read == nullptr || read->shape.empty() ? kDynamic : read->shape.back();
  if (width < 1) {
    fail(Result::kBundleCorrupt, "graph '%s': its input '%s' has no fixed width", printable(spec.id).c_str(),
         input.c_str());
  }
  const auto row_floats = static_cast<std::size_t>(width);
  const auto values = arrays.get<float>(name, {count, row_floats});
  if (!std::ranges::all_of(values, [](float value) { return std::isfinite(value); })) {
    fail(Result::kBundleCorrupt, "%s: array '%s' has a value that is not finite", arrays.what().c_str(), name.c_str());
  }
  std::vector<Tensor<float>> rows;
  for (std::size_t n = 0; n < count; ++n) {
    std::ranges::copy(values.subspan(n * row_floats, row_floats), rows.emplace_back(Shape{1, width}).data());
  }
  return rows;
}

}  // namespace rdeic
