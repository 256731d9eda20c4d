#pragma once

// ONNX Runtime: on the CPU, or on a GPU through the provider of that name. ort.cc is the only file that includes its
// headers.

#include <memory>

#include "backends/backend.h"

namespace rdeic::backends {

// Each throws Error(kBackendUnavailable), with the reason, where it cannot run. `threads`: as for `open`.
std::unique_ptr<const Backend> open_cpu(unsigned threads);
#ifdef RDEIC_WITH_CUDA
std::unique_ptr<const Backend> open_cuda(unsigned threads);
std::unique_ptr<const Backend> open_tensorrt_rtx(unsigned threads);
#endif

}  // namespace rdeic::backends
