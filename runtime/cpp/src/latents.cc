#include "latents.h"

#include <utility>

#include "families/family.h"
#include "pixels.h"

namespace rdeic {
namespace {

// Products between two questions to `progress` within entropy decoding, besides those before each slice: less than a
// tenth of a second on one core. Counted, and not timed, so that a decode asks as often whenever it is run.
constexpr std::uint64_t kAskEvery = std::uint64_t{1} << 30;

}  // namespace

Sizes sizes_of(const Bundle& bundle, Size size) {
  const Size whole = padded_size(size, bundle.size_multiple_px);
  return {1, whole.height / bundle.size_multiple_px, whole.width / bundle.size_multiple_px};
}

std::map<std::string, Shape> latent_shapes(const Bundle& bundle, const Rate& rate, const Sizes& sizes) {
  std::map<std::string, Shape> shapes;
  for (const auto& [name, role] : bundle.family->latents()) {
    shapes.emplace(name, bundle.reference(rate.graphs.at(role)).input(name)->resolve(sizes));
  }
  return shapes;
}

Latents decode_latents(const Bundle& bundle, const Rate& rate, const entropy::Model& model, const File& file,
                       entropy::Workers& workers, ProgressSteps& progress) {
  std::uint64_t since = 0;
  const entropy::Compute compute{entropy::available_kernels().front(), workers, [&](std::uint64_t products) {
                                   since += products;
                                   if (since < kAskEvery) return;
                                   since = 0;
                                   progress.go_on(Part::kEntropy);
                                 }};
  const auto shapes = latent_shapes(bundle, rate, sizes_of(bundle, file.header.size));
  entropy::Decoded decoded = model.decode(compute, file, shapes, [&](std::size_t slice) {
    if (slice > 0) progress.go_on(Part::kEntropy);
  });
  return {{file.header.size, {}, file.missing_bytes, decoded.complete_slices, decoded.n_slices},
          rate.index,
          file.header.rate,
          std::move(decoded.tensors),
          file.checksum};
}

}  // namespace rdeic
