#include "plan.h"

#include <cmath>

#include "latents.h"
#include "memory_estimate.h"
#include "status.h"

namespace rdeic {

void check_options(const PlanOptions& options) {
  if (!std::isfinite(options.sharpness) || options.sharpness < 0) {
    fail(Result::kInvalidArgument, "sharpness is %g; it must be a finite number, 0 or more", options.sharpness);
  }
}

Plan plan_decode(const Bundle& bundle, const Rate& rate, const families::Loader& load, Size size,
                 const PlanOptions& options, const Limits& limits) {
  Plan plan;
  if (options.preview) {
    plan.list = bundle.family->preview(load);
  } else {
    bundle.check_sharpness(rate, options.sharpness);
    plan.schedule = bundle.choose_schedule(rate, options.steps);
    plan.list = bundle.family->decoder(load, plan.schedule);
  }
  const Sizes sizes = sizes_of(bundle, size);
  check_memory(*plan.list, latent_shapes(bundle, rate, sizes), sizes, size, limits);
  return plan;
}

}  // namespace rdeic
