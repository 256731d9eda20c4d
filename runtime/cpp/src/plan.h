#pragma once

// What a decode will do, and whether it may: the checks of its options and of its memory, before anything is decoded.

#include <cstdint>
#include <memory>

#include "bundle.h"
#include "families/family.h"
#include "input_limits.h"

namespace rdeic {

/// How an image is made of latents, as far as it matters before these are there.
struct PlanOptions {
  bool preview = false;     // the image of the latents alone; sharpness and steps are not used
  double sharpness = 1.0;   // lambda_s, finite, 0 or more
  std::uint32_t steps = 0;  // denoising steps; 0 for the rate's own number
};

/// Checks what needs no bundle. Throws Error(kInvalidArgument).
void check_options(const PlanOptions& options);

/// The stages of a decode, and the schedule that they follow: nullptr for a preview, and for a family without steps.
struct Plan {
  const Schedule* schedule = nullptr;
  std::unique_ptr<const families::StageList> list;
};

/// Returns what decodes an image of this size at a rate. `load` must outlive it. Throws Error: kInvalidArgument for
/// options that the rate has not, kBundleCorrupt for a schedule that is not its family's, kLimitExceeded if it takes
/// more than `limits.max_memory_bytes`.
Plan plan_decode(const Bundle& bundle, const Rate& rate, const families::Loader& load, Size size,
                 const PlanOptions& options, const Limits& limits);

}  // namespace rdeic
