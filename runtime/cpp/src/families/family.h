#pragma once

// Families of codecs: which graphs a bundle has, and how they follow each other.
//
// A family is one file and one row of the table in families.cc. How it decodes is a list of stages over named tensors,
// which run alike on a whole image and on tiles of it (placement.h).

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "placement.h"
#include "schedule.h"
#include "tensor_spec.h"
#include "value.h"

namespace rdeic::families {

using Names = std::set<std::string>;

/// What the graph of a role is called with and returns.
struct Role {
  std::string name;
  /// Names of tensors; "residual_*" stands for residual_0, residual_1, ...: all that the graphs of the rate have.
  Names inputs, outputs;
  bool at_a_level = false;  // whether it has the input `kLevelInput` too where rates share their graphs
  bool encodes = false;     // whether only encoding needs it
};

/// Graphs and tables of one rate; what is asked for outlives what is made of it.
class Loader {
 public:
  virtual ~Loader() = default;

  /// Returns the rate's graph for a role, in the form that the backend runs. It is loaded when it is first run.
  virtual std::shared_ptr<const backends::Graph> graph(const std::string& role) const = 0;

  /// Returns what the input `step` of a role's graph is at one step of a schedule, float32 [1, D].
  virtual ValuePtr step_row(const Schedule& schedule, const std::string& role, std::size_t step) const = 0;
};

/// What one file is decoded from.
struct Given {
  Values tensors;          // the latents, and rows of levels as `level_input` names them
  Sizes sizes;             // of the image
  std::uint64_t seed = 0;  // of the noise
  double sharpness = 1;    // lambda_s
};

/// A list of stages that makes an image.
class StageList {
 public:
  virtual ~StageList() = default;

  /// Returns all that `Placement::each` is called with, in order.
  virtual std::vector<const Stage*> stages() const = 0;

  /// Returns the padded image, uint8 [1, H, W, 3].
  virtual ValuePtr run(Placement& at, const Given& given) const = 0;
};

/// How the graphs of a bundle follow each other.
class Family {
 public:
  virtual ~Family() = default;

  /// Returns what bundle.json calls it.
  virtual const std::string& name() const = 0;
  /// Returns every role that a rate must have, in the order data meets them.
  virtual std::span<const Role> roles() const = 0;
  /// Returns the tensors that go by several names and are all of one type and shape.
  virtual const Names& alike() const = 0;
  /// Returns whether it decodes in the steps of a schedule, which every rate then must have.
  virtual bool has_steps() const = 0;
  /// Returns the names of the tensors that files are decoded to, and the role that has each as an input.
  virtual const std::map<std::string, std::string>& latents() const = 0;

  /// Returns what decodes. `schedule`: nullptr for a family without steps; it must outlive the list, as `load` must.
  virtual std::unique_ptr<const StageList> decoder(const Loader& load, const Schedule* schedule) const = 0;
  /// Returns what makes the image that the latents alone give.
  virtual std::unique_ptr<const StageList> preview(const Loader& load) const = 0;
};

/// The families that a bundle may be of.
using Table = std::span<const Family* const>;

/// Returns those of this library.
Table table();

/// Returns the family of this name, or nullptr.
const Family* find(Table among, const std::string& name);

/// Returns the name that the row of a role's level has in `Given::tensors`.
std::string level_input(const std::string& role);

/// Returns the value of this name, or nullptr if there is none.
ValuePtr value_or_null(const Values& values, const std::string& name);

/// Returns the stage that runs one graph. `outputs`: what it returns, in order.
Stage graph_stage(Part part, const Loader& load, const std::string& role, const std::vector<std::string>& outputs);

/// Returns the stage that makes z_N = sqrt(abar_start) z_c + sqrt(1 - abar_start) noise of `z_c` and `noise`.
Stage start_stage(const Schedule& schedule, const TensorSpec& latent);

/// Returns weights[0] x + weights[1] y.
ValuePtr combine(const Value& x, const Value& y, std::array<float, 2> weights);

}  // namespace rdeic::families
