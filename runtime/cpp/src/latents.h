#pragma once

// A file after entropy decoding: what is left to do is arithmetic in floating point.

#include <cstdint>
#include <map>
#include <string>

#include "bundle.h"
#include "container.h"
#include "entropy/model.h"
#include "progress.h"
#include "value.h"

namespace rdeic {

/// What is told of a file beside its image.
struct Decoded {
  Size size;
  Metadata metadata;
  std::uint64_t missing_bytes = 0;    // of a file that is cut short
  std::uint32_t complete_slices = 0;  // how many slices of the latents are as in the whole file
  std::uint32_t n_slices = 0;
};

/// The latents of a file, exact on every machine.
struct Latents {
  Decoded file;
  std::uint32_t rate = 0;      // index in the bundle
  std::uint32_t level = 0;     // where the bundle has levels
  Values tensors;              // by name, on the host, each with the batch as its first dimension; exact
  std::uint32_t checksum = 0;  // the default seed
};

/// Returns the sizes that an image of this size has once it is padded.
Sizes sizes_of(const Bundle& bundle, Size size);

/// Returns the shapes of the tensors that files of a rate are decoded to, by name.
std::map<std::string, Shape> latent_shapes(const Bundle& bundle, const Rate& rate, const Sizes& sizes);

/// Returns the latents of a file, but for its metadata. `rate`, `model`: the file's. `progress` is asked again and
/// again, at least every tenth of a second. Throws Error: kBitstream, kBundleCorrupt, kCancelled.
Latents decode_latents(const Bundle& bundle, const Rate& rate, const entropy::Model& model, const File& file,
                       entropy::Workers& workers, ProgressSteps& progress);

}  // namespace rdeic
