#include "entropy/workers.h"

namespace rdeic::entropy {

struct Workers::State {};

Workers::Workers(unsigned) {}
Workers::~Workers() = default;

void Workers::run(std::size_t n, const std::function<void(std::size_t)>& task) {
  for (std::size_t i = 0; i < n; ++i) task(i);
}

}  // namespace rdeic::entropy
