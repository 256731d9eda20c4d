#pragma once

// How far a decode has come, and whether to go on.

#include <functional>

#include "status.h"

namespace rdeic {

/// The parts of a decode, in order, as told to `Progress`; a family may have any of them more than once, or leave it
/// out.
enum class Part { kEntropy, kSynthesis, kDenoise, kVae, kDone };

/// Called in the thread that decodes, before each part, with the number of parts done and of all parts; again, with the
/// same numbers, within parts that take long: at least every tenth of a second of entropy decoding, and between tiles.
/// Returning false ends the decode with Result::kCancelled.
using Progress = std::function<bool(Part part, unsigned done, unsigned total)>;

/// Counts the parts of one decode, and asks before each whether to go on.
class ProgressSteps {
 public:
  /// `progress` must outlive this object; `total`: of the parts, but for kDone.
  ProgressSteps(const Progress& progress, unsigned total) : progress_(progress), total_(total) {}

  void begin(Part part) {
    const unsigned done = done_++;
    if (progress_ && !progress_(part, done, total_)) fail(Result::kCancelled, "cancelled by the caller");
  }

  /// Asks whether to go on with a further piece of the part that began last.
  void go_on(Part part) {
    --done_;
    begin(part);
  }

 private:
  const Progress& progress_;
  unsigned total_;
  unsigned done_ = 0;
};

}  // namespace rdeic
