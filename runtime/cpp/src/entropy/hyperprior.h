#pragma once

// Entropy model 1: a VQ hyperprior and a space-channel context model. Integers only inside.
//
//   indices - hyper --> h ------------+-------------------------+
//   slices before - channel context - c                         |
//                                     +- anchors --> (s, m) - coder --> y_hat of the anchors - local context - l
//                                     +- non-anchors (h, c, l) --> (s, m) - coder --> y_hat of the slice
//
// Encoder and decoder run the same networks on the same integers, so both see the same scales s and means m, on every
// machine (docs/format.md, "Entropy coding").

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "arrays.h"
#include "container.h"
#include "entropy/model.h"
#include "entropy/model_reader.h"
#include "entropy/nets.h"
#include "entropy/tables.h"

namespace rdeic::entropy {

/// Integer networks and tables. Its one tensor is y_hat, float32 [1, M, hy, wy], on a grid that is 4 times that of the
/// VQ indices.
class Hyperprior final : public Model {
 public:
  static constexpr std::int32_t kVersion = 1;

  /// Reads the arrays of docs/format.md, "Arrays of the entropy model"; Error(kBundleCorrupt) if one is missing,
  /// unknown or holds what it must not.
  static std::shared_ptr<const Model> read(const Arrays& arrays);

  const ModelId& id() const override { return id_; }
  Decoded decode(const Compute& compute, const File& file, const std::map<std::string, Shape>& shapes,
                 const BeforeSlice& before_slice) const override;

  std::size_t y_channels() const { return slices_.back().start() + slices_.back().width(); }

 private:
  Hyperprior(const Arrays& arrays, ModelReader reader);

  ModelId id_;
  std::vector<std::size_t> widths_;
  Tables tables_;
  HyperNet hyper_;
  std::vector<SliceNets> slices_;
};

}  // namespace rdeic::entropy
