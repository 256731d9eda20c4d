#pragma once

// Entropy models 2 and 3: nothing but VQ indices; section y is empty. They have a fixed width or are coded by a prior,
// in model 3 with a context model beside it (docs/format.md, "Entropy model 2" and "Entropy model 3").

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "arrays.h"
#include "entropy/index_context.h"
#include "entropy/indices.h"
#include "entropy/model.h"
#include "entropy/model_reader.h"

namespace rdeic::entropy {

/// Tables of masses, and what chooses among them. Its one tensor is vq_indices, int64 [1, Hq, Wq].
class StaticPrior final : public Model {
 public:
  static constexpr std::int32_t kVersion = 2;
  static constexpr std::int32_t kContextVersion = 3;

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
  std::optional<IndexContext> context_;  // of model 3
};

}  // namespace rdeic::entropy
