#pragma once

// What an entropy model is: the two sections of a file -> named tensors, exact on every machine. Nothing here knows of
// graphs or backends.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "arrays.h"
#include "container.h"
#include "entropy/layers.h"
#include "value.h"

namespace rdeic::entropy {

/// What the sections of a file hold.
struct Decoded {
  Values tensors;                     // on the host, each with the batch as its first dimension
  std::uint32_t complete_slices = 0;  // how many parts are as in the whole file, from the first on
  std::uint32_t n_slices = 0;         // how many there are
};

/// Called before each slice with its number; what it throws ends the decoding.
using BeforeSlice = std::function<void(std::size_t slice)>;

/// Nothing changes a model, so several threads may use one at once.
class Model {
 public:
  virtual ~Model() = default;

  /// Returns the 4 bytes that name it in .rdc files.
  virtual const ModelId& id() const = 0;

  /// Returns how many pixels along a side a position of a tensor stands for, by name, where the model says so.
  virtual std::map<std::string, std::uint32_t> position_px() const { return {}; }

  /// Returns the tensors that a file's sections hold, as `families::Family::latents` names them. `shapes`: what the
  /// graphs take, by name. Of a file whose y section has lost its end, what is certain is decoded, and the rest is what
  /// is most likely. Throws Error: kBitstream if the sections are not what an encoder writes for any tensors of these
  /// shapes, kBundleCorrupt if the model makes no tensors of these shapes.
  virtual Decoded decode(const Compute& compute, const File& file, const std::map<std::string, Shape>& shapes,
                         const BeforeSlice& before_slice) const = 0;
};

/// A kind of entropy model: the version among the arrays of its file, and what reads these. Reading throws
/// Error(kBundleCorrupt) if an array is missing, unknown, or holds what it must not.
struct Kind {
  std::int32_t version;
  std::shared_ptr<const Model> (*read)(const Arrays& arrays);
};

/// Returns the kinds that this library knows.
std::span<const Kind> kinds();

/// Returns the entropy model in these arrays (docs/format.md, "Arrays of the entropy model"); Error(kBundleCorrupt) if
/// it is of none of these kinds, and what reading throws.
std::shared_ptr<const Model> load(const Arrays& arrays, std::span<const Kind> known = kinds());

/// Returns the first 4 bytes of the SHA-256 of all arrays in canonical form (docs/format.md, "Model id").
ModelId model_id(const Arrays& arrays);

}  // namespace rdeic::entropy
