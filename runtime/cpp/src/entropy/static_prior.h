#pragma once

// Entropy model 2: nothing but VQ indices, by a static prior or of a fixed width; section y is empty (docs/format.md,
// "Entropy model 2").

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "arrays.h"
#include "entropy/indices.h"
#include "entropy/model.h"
#include "entropy/model_reader.h"

namespace rdeic::entropy {

/// A table of masses. Its one tensor is vq_indices, int64 [1, Hq, Wq].
class StaticPrior final : public Model {
 public:
  static constexpr std::int32_t kVersion = 2;

  /// Reads the arrays; Error(kBundleCorrupt) if one is missing, unknown or holds what it must not.
  static std::shared_ptr<const Model> read(const Arrays& arrays);

  const ModelId& id() const override { return id_; }
  std::map<std::string, std::uint32_t> position_px() const override;
  Decoded decode(const Compute& compute, const File& file, const std::map<std::string, Shape>& shapes,
                 const BeforeSlice& before_slice) const override;

 private:
  StaticPrior(const Arrays& arrays, ModelReader reader);

  ModelId id_;
  std::int32_t index_px_;
  IndexCoder indices_;
};

}  // namespace rdeic::entropy
