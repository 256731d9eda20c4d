#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "families/family.h"
#include "input_limits.h"
#include "tensor_spec.h"

namespace rdeic {

/// Returns how many bytes decoding an image holds at most at one time, beside what ONNX Runtime works in, which the
/// size of tiles bounds. It follows from the shapes that the bundle promises.
///
/// `latents`: the shapes of what the file is decoded to; `sizes`, `size`: of the image, padded and as it is.
std::uint64_t decode_bytes(const families::StageList& list, const std::map<std::string, Shape>& latents,
                           const Sizes& sizes, Size size);

/// Throws Error(kLimitExceeded) if that is over `limits.max_memory_bytes`.
void check_memory(const families::StageList& list, const std::map<std::string, Shape>& latents, const Sizes& sizes,
                  Size size, const Limits& limits);

}  // namespace rdeic
