#include "entropy/model_reader.h"

#include "status.h"

namespace rdeic::entropy {

std::int32_t ModelReader::number(const std::string& name, std::int32_t low, std::int32_t high) {
  const std::int32_t value = take<std::int32_t>(name, {1})[0];
  check(low <= value && value <= high, text("'%s' is %d, should be %d to %d", name.c_str(), value, low, high));
  return value;
}

void ModelReader::check(bool condition, const std::string& problem) const {
  if (condition) return;
  fail(Result::kBundleCorrupt, "%s: %s. Get the bundle again, or export it again", arrays_.what().c_str(),
       problem.c_str());
}

void ModelReader::close() const {
  for (const auto& [name, array] : arrays_.all()) {
    check(taken_.contains(name), text("unknown array '%s'", printable(name).c_str()));
  }
}

}  // namespace rdeic::entropy
