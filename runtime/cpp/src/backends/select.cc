#include "backends/select.h"

#include <algorithm>
#include <iterator>

#include "backends/ort.h"
#include "status.h"

namespace rdeic::backends {
namespace {

using Opener = std::unique_ptr<const Backend> (*)(unsigned threads);

/// A backend: its name, and what opens it; nullptr where it is not part of this build.
struct Row {
  const char* name;
  Opener open;
};

#ifdef RDEIC_WITH_CUDA
constexpr Opener kCuda = open_cuda, kTensorRtRtx = open_tensorrt_rtx;
#else
constexpr Opener kCuda = nullptr, kTensorRtRtx = nullptr;
#endif

constexpr Row kBackends[] = {{"cpu", open_cpu}, {"cuda", kCuda}, {"tensorrt-rtx", kTensorRtRtx}};

}  // namespace

std::unique_ptr<const Backend> open(const std::string& name, unsigned threads) {
  const Row* const found = std::ranges::find(kBackends, name, &Row::name);
  if (found == std::end(kBackends)) {
    std::string names;
    for (const Row& row : kBackends) names += (names.empty() ? "" : ", ") + std::string(row.name);
    fail(Result::kInvalidArgument, "backend '%s' is not one of: %s", printable(name).c_str(), names.c_str());
  }
  if (found->open == nullptr) {
    fail(Result::kBackendUnavailable, "backend '%s' is not part of this build of the library (RDEIC_WITH_CUDA)",
         found->name);
  }
  return found->open(threads);
}

}  // namespace rdeic::backends
