#pragma once

#include <memory>
#include <string>

#include "backends/backend.h"

namespace rdeic::backends {

/// Returns the backend of this name: cpu, cuda or tensorrt-rtx. `threads`: of the CPU for one run, 0 for one per
/// physical core. Throws Error(kInvalidArgument) for another name, kBackendUnavailable with the reason where this one
/// cannot run here.
std::unique_ptr<const Backend> open(const std::string& name, unsigned threads);

}  // namespace rdeic::backends
