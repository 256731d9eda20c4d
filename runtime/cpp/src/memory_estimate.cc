#include "memory_estimate.h"

#include <algorithm>
#include <cinttypes>

#include "status.h"

namespace rdeic {

namespace {

// As many channels as nothing has; with more, the estimate might not fit 64 bits.
constexpr std::int64_t kMaxChannels = UINT32_MAX;

/// Returns the channels that a graph's input or output of rank 4 is promised to have, 0 if that is open.
std::uint64_t channels_of(const std::vector<TensorSpec>& specs, const char* name) {
  for (const TensorSpec& spec : specs)
    if (spec.name == name && spec.shape.size() == 4)
      return static_cast<std::uint64_t>(std::clamp<std::int64_t>(spec.shape[1], 0, kMaxChannels));
  return 0;
}

}  // namespace

std::uint64_t decode_bytes(const Bundle& bundle, const Rate& rate, Size size) {
  constexpr std::uint64_t kLatentArea = 16 * 16, kGuideArea = 8 * 8;
  const std::uint64_t multiple = bundle.size_multiple_px;
  const auto padded = [&](std::uint64_t side) { return (side + multiple - 1) / multiple * multiple; };
  const std::uint64_t pixels = padded(size.height) * padded(size.width);

  const GraphSpec& synthesis = bundle.graph_of(rate, "synthesis");
  const std::uint64_t y_channels = channels_of(synthesis.inputs, "y_hat");
  const std::uint64_t hint_channels = channels_of(synthesis.outputs, "hint");
  // Entropy decoding: Y and the two tensors T, hyper parameters and contexts of about as many channels, and y_hat.
  const std::uint64_t entropy = pixels / kLatentArea * y_channels * (4 + 2 + 2 * 2 + 2 * 4 + 4);
  // Denoising: y_hat, hint, and z with its noise, its successor and what is blended of tiles; then the padded picture
  // in float32 while tiles of it are blended.
  const std::uint64_t latents = pixels / kLatentArea * y_channels * 4 + pixels / kGuideArea * 4 * hint_channels +
                                pixels / kGuideArea * 4 * 4 * bundle.latent_channels;
  const std::uint64_t picture = pixels * 3 * (4 + 1) + std::uint64_t{size.height} * size.width * 3;
  return std::max(entropy, latents + picture);
}

void check_memory(const Bundle& bundle, const Rate& rate, Size size, const Limits& limits) {
  if (limits.max_memory_bytes == 0) return;
  const std::uint64_t wanted = decode_bytes(bundle, rate, size);
  if (wanted > limits.max_memory_bytes)
    fail(Result::kLimitExceeded,
         "%" PRIu32 "x%" PRIu32 " pixels take %" PRIu64 " bytes of memory: %" PRIu64
         " are allowed (limit max_memory_bytes). Scale the picture down, or raise the limit",
         size.width, size.height, wanted, limits.max_memory_bytes);
}

}  // namespace rdeic
