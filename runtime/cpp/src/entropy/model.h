#pragma once

#include <vector>

#include "arrays.h"
#include "container.h"
#include "entropy/nets.h"
#include "entropy/tables.h"

namespace rdeic::entropy {

/// Returns the first 4 bytes of the SHA-256 of all arrays in canonical form (docs/format.md, "Model id").
ModelId model_id(const Arrays& arrays);

/// Integer networks and tables of one rate. Nothing changes them, so several threads may use one at once.
class Model {
 public:
  /// Reads the arrays of docs/format.md, "Arrays of the entropy model"; Error(kBundleCorrupt) if one is missing,
  /// unknown or holds what it must not.
  explicit Model(const Arrays& arrays) : Model(arrays, ModelReader(arrays)) {}

  const ModelId& id() const { return id_; }
  std::size_t y_channels() const { return slices_.back().start() + slices_.back().width(); }
  const Tables& tables() const { return tables_; }
  const HyperNet& hyper() const { return hyper_; }
  const std::vector<SliceNets>& slices() const { return slices_; }

 private:
  Model(const Arrays& arrays, ModelReader reader);

  ModelId id_;
  std::vector<std::size_t> widths_;
  Tables tables_;
  HyperNet hyper_;
  std::vector<SliceNets> slices_;
};

}  // namespace rdeic::entropy
