#pragma once

#include <cstdint>

#include "bundle.h"
#include "input_limits.h"

namespace rdeic {

/// Returns how many bytes a decode of a picture of this size holds at most at one time, beside what ONNX Runtime works
/// in, which the size of tiles bounds. It follows from the shapes that the bundle promises.
std::uint64_t decode_bytes(const Bundle& bundle, const Rate& rate, Size size);

/// Throws Error(kLimitExceeded) if that is over `limits.max_memory_bytes`.
void check_memory(const Bundle& bundle, const Rate& rate, Size size, const Limits& limits);

}  // namespace rdeic
