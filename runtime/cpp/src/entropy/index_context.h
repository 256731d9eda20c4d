#pragma once

// A context model of VQ indices: what has been decoded of a neighbourhood chooses the table of the next index
// (docs/format.md, "Entropy model 3").
//
//   0 2 0 2        pass 0        the prior
//   3 1 3 1        pass p >= 1   code vectors of passes before p - context.<p>.0 - .1 - .2 --> C scores
//   0 2 0 2                      the class is the first maximum of the scores, and each class has a table
//   3 1 3 1

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "entropy/coder.h"
#include "entropy/layers.h"
#include "entropy/model_reader.h"

namespace rdeic::entropy {

/// Integer networks, which give each position a class, and a table of each class.
class IndexContext {
 public:
  /// Reads codebook, class_weights and context.* of a model with so many code vectors.
  IndexContext(ModelReader& reader, std::size_t codes);

  /// Returns the indices of a grid by row, each less than the number of code vectors, of a z section that is not plain;
  /// Error(kBitstream) if this is not their section.
  std::vector<std::int32_t> decode(const Compute& compute, const Distribution& prior,
                                   std::span<const std::uint8_t> section, std::size_t height, std::size_t width) const;

 private:
  struct Net {
    Layer first, middle, last;
    std::size_t margin;  // rows that the first sees above and below a position
  };

  static Net read_net(ModelReader& reader, std::size_t pass, std::size_t code_width, std::size_t n_classes);
  std::vector<std::uint8_t> classes(const Compute& compute, std::size_t pass, std::span<const std::int32_t> grid,
                                    std::size_t height, std::size_t width) const;
  Grid<std::uint16_t> plane(std::size_t pass, std::span<const std::uint16_t> zero, std::span<const std::int32_t> grid,
                            std::size_t height, std::size_t width) const;

  std::vector<std::uint16_t> codebook_;
  std::size_t code_width_;
  std::vector<Distribution> tables_;
  std::vector<Net> nets_;  // of passes 1 to 3
};

/// Returns masses of sum 2^24 in proportion to weights that are coded as one byte each.
std::vector<std::int32_t> masses_of(std::span<const std::uint8_t> weights);

}  // namespace rdeic::entropy
