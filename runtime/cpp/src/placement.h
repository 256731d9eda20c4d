#pragma once

// Where a family's stages run: on a whole image, or on tiles of it. A family sees no difference.
//
//   Whole   a stage runs once
//   Tiled   a stage runs tile by tile, and what the tiles give is blended before the next stage, so that they cannot
//           drift apart
//
// What stages hand to each other lies on the host. Only a stage itself has values where the backend computes.

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "progress.h"
#include "tensor_spec.h"
#include "tiles.h"
#include "value.h"

namespace rdeic {

/// Work on one tile, or on a whole image: named values -> values, by graphs and arithmetic.
struct Stage {
  std::optional<Part> part;  // what progress is told of it; nothing of what takes no time
  std::vector<std::shared_ptr<const backends::Graph>> graphs{};      // what it runs
  std::map<std::string, TensorSpec> inputs{};                        // how each input lies over the image, by name
  std::vector<TensorSpec> outputs{};                                 // how what it returns does, in order
  std::function<std::vector<ValuePtr>(const Values& inputs)> run{};  // returns the outputs, on the host
  /// An input that must hold no infinity and no NaN, of which the stage would make an image as of anything else.
  std::string finite{};
};

/// See above.
class Placement {
 public:
  virtual ~Placement() = default;

  /// Returns the outputs of a stage for these inputs; those that are null are left out. Throws Error: kCancelled,
  /// kBackend, kOutOfMemory, and kBundleCorrupt if a graph returned what it should not.
  std::vector<ValuePtr> each(const Stage& stage, Values inputs);

 protected:
  /// Does the same for inputs that are all there, and as they should be.
  virtual std::vector<ValuePtr> run(const Stage& stage, const Values& inputs) = 0;
};

/// An image in one piece.
class Whole final : public Placement {
 public:
  /// `progress` must outlive this object.
  explicit Whole(ProgressSteps& progress) : progress_(progress) {}

 protected:
  std::vector<ValuePtr> run(const Stage& stage, const Values& inputs) override;

 private:
  ProgressSteps& progress_;
};

/// An image in tiles.
class Tiled final : public Placement {
 public:
  /// `progress` must outlive this object.
  Tiled(tiles::Tiling tiling, ProgressSteps& progress) : tiling_(std::move(tiling)), progress_(progress) {}

 protected:
  std::vector<ValuePtr> run(const Stage& stage, const Values& inputs) override;

 private:
  tiles::Tiling tiling_;
  ProgressSteps& progress_;
};

}  // namespace rdeic
