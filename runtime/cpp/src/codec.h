#pragma once

// MAIN PATH: `Codec::decode`, one call per stage.
//
//   decode   .rdc bytes - container.parse - entropy model - latents - family's decoder - crop -> image
//   preview  .rdc bytes - as for decode - latents - family's preview - crop -> image
//
// Everything up to the latents is exact on every machine. What a family does is in families/, where it runs in
// placement.h.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "backends/backend.h"
#include "bundle.h"
#include "container.h"
#include "entropy/model.h"
#include "input_limits.h"
#include "latents.h"
#include "pixels.h"
#include "progress.h"
#include "value.h"

namespace rdeic {

/// What a codec is opened with.
struct CodecOptions {
  std::string backend = "cpu";     // cpu, cuda or tensorrt-rtx
  std::string precision = "auto";  // auto, fp32, fp16 or int8
  unsigned threads = 0;            // CPU threads of one graph run; 0 for one per physical core
  std::uint32_t tile_px = 1024;    // images of more than tile_px squared pixels are decoded in tiles
  Limits limits{};
};

/// How one file is decoded.
struct DecodeOptions {
  double sharpness = 1.0;               // lambda_s, finite, 0 or more
  std::optional<std::uint64_t> seed{};  // of the noise; nothing for the file's checksum
  std::uint32_t steps = 0;              // denoising steps; 0 for the rate's own number
  bool preview = false;                 // the image of the latents alone; seed, steps and sharpness are not used
  bool allow_partial = false;           // take what is certain of a file that is cut short
  Progress progress{};
};

/// Tells where an image of this size goes; called once, after the container was checked and before anything is
/// decoded. What it throws ends the decode. An image of a preview or of latents has the same size.
using Place = std::function<PixelRows(Size size)>;

/// What a codec is made of beside its bundle.
struct CodecParts {
  std::unique_ptr<const backends::Backend> backend;
  std::span<const entropy::Kind> entropy_kinds = entropy::kinds();
};

/// Decodes with one bundle on one backend. Graphs and tables are loaded when first needed. One codec may be used from
/// many threads at once, in the process that made it: in a child of fork() it fails with kBackend, and its end gives
/// nothing back.
class Codec {
 public:
  /// Throws Error: kInvalidArgument, kBackendUnavailable, kBackend.
  Codec(std::shared_ptr<const Bundle> bundle, const CodecOptions& options);
  /// The same on a backend that is open already; what the options say of one is not used.
  Codec(std::shared_ptr<const Bundle> bundle, CodecOptions options, CodecParts parts);
  ~Codec();
  Codec(const Codec&) = delete;
  Codec& operator=(const Codec&) = delete;

  const Bundle& bundle() const;
  const Limits& limits() const;

  /// Decodes a file to where `place` says. Throws Error for everything that can be wrong with file, bundle or backend.
  Decoded decode(std::span<const std::uint8_t> data, const Place& place, const DecodeOptions& options);

  /// Returns everything up to the latents, on the CPU.
  Latents read_latents(std::span<const std::uint8_t> data, bool allow_partial = false);

  /// Loads what decoding a rate needs, so that the first decode is as fast as the next.
  void prepare(std::uint32_t rate, bool preview = false);

 private:
  struct State;
  void check_process() const;
  std::unique_ptr<State> state_;
};

}  // namespace rdeic
