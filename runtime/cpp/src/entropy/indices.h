#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "container.h"
#include "entropy/coder.h"
#include "entropy/model_reader.h"

namespace rdeic::entropy {

/// Throws unless masses are a distribution; `what` names them.
void check_masses(const ModelReader& reader, std::span<const std::int32_t> masses, const std::string& what);

/// Decodes section z: indices by a static prior or of a fixed width (docs/format.md, "Indices").
class IndexCoder {
 public:
  /// Reads prior_masses.
  explicit IndexCoder(ModelReader& reader);

  std::size_t n_codes() const { return prior_.size(); }
  const Distribution& prior() const { return prior_; }

  /// Returns so many indices, each less than `n_codes`; Error(kBitstream) if this is not their section.
  std::vector<std::int32_t> decode(const File& file, std::size_t count) const;

 private:
  Distribution prior_;
  unsigned plain_bits_;  // width of an index that is coded without the prior
};

}  // namespace rdeic::entropy
