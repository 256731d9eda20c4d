#include "memory_estimate.h"

#include <algorithm>
#include <cinttypes>

#include "status.h"

namespace rdeic {

namespace {

/// Returns the number of elements, which any bundle may make as large as it likes: a double is exact to 2^53, and
/// cannot overflow.
double elements_of(const Shape& shape) {
  double count = 1;
  for (const std::int64_t side : shape) count *= static_cast<double>(side);
  return count;
}

}  // namespace

std::uint64_t decode_bytes(const families::StageList& list, const std::map<std::string, Shape>& latents,
                           const Sizes& sizes, Size size) {
  // Entropy decoding has beside each latent its integers, the tensors that networks see, hyper parameters and contexts
  // of about as many channels.
  constexpr double kEntropyBytes = 4 + 2 + 2 * 2 + 2 * 4 + 4;
  double entropy = 0;
  for (const auto& [name, shape] : latents) entropy += elements_of(shape) * kEntropyBytes;
  // Of all that stages hand on, one tensor of each name; the last image once more, while tiles of it are blended; and
  // the image that the caller gets.
  std::map<std::string, double> handed_on;
  double image = 0;
  for (const Stage* const stage : list.stages()) {
    for (const TensorSpec& output : stage->outputs) {
      image = elements_of(output.resolve(sizes)) * static_cast<double>(dtype_bytes(output.dtype));
      handed_on[output.name] = image;
    }
  }
  for (const auto& [name, shape] : latents) handed_on[name] = elements_of(shape) * sizeof(float);
  double stages = image + 3.0 * size.height * size.width;
  for (const auto& [name, bytes] : handed_on) stages += bytes;
  constexpr double kMost = 1e18;  // which fits 64 bits
  return static_cast<std::uint64_t>(std::min(std::max(entropy, stages), kMost));
}

void check_memory(const families::StageList& list, const std::map<std::string, Shape>& latents, const Sizes& sizes,
                  Size size, const Limits& limits) {
  if (limits.max_memory_bytes == 0) return;
  const std::uint64_t wanted = decode_bytes(list, latents, sizes, size);
  if (wanted > limits.max_memory_bytes)
    fail(Result::kLimitExceeded,
         "%" PRIu32 "x%" PRIu32 " pixels take %" PRIu64 " bytes of memory: %" PRIu64
         " are allowed (limit max_memory_bytes). Scale the image down, or raise the limit",
         size.width, size.height, wanted, limits.max_memory_bytes);
}

}  // namespace rdeic
