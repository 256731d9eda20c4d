#pragma once

// bundle.json -> Bundle: schema, references, paths that stay inside, hashes; and where bundles are looked for
// (docs/bundle.md).
//
//   bundle.json -> size -> JSON -> schema -> references -> paths -> lengths, SHA-256 -> Bundle
//
// Nothing is loaded here but bundle.json: graphs go through graph_file.h to a backend, tables to `Arrays`, each on
// first use.

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bundle_file.h"
#include "container.h"
#include "schedule.h"

namespace rdeic {

/// A dimension of a `TensorSpec` that is not fixed.
inline constexpr std::int64_t kDynamic = -1;

/// One input or output of a graph.
struct TensorSpec {
  std::string name;
  std::string dtype;  // uint8, int64, float32 or float16
  std::vector<std::int64_t> shape;
};

/// The files of a bundle by relative path: every one but bundle.json.
using BundleFiles = std::map<std::string, BundleFile>;

/// One ONNX graph of a bundle: where it lies, and what goes in and out, in the graph's order.
struct GraphSpec {
  std::string id;
  BundleFile file;                            // `read_graph` returns what a backend may load of it
  std::string folder;                         // of the file, in the bundle: empty, or with a slash at its end
  std::shared_ptr<const BundleFiles> listed;  // in which weights of the graph may lie
  std::string precision;                      // fp32, fp16 or int8
  std::vector<TensorSpec> inputs, outputs;
  std::map<std::string, std::string> variants;  // other forms of the same graph (fp16, int8, int8-cpu) -> graph id

  /// Returns the input of this name, or nullptr.
  const TensorSpec* input(const std::string& name) const;
  /// Returns the file at a path from the graph's folder, as the graph gives it, or nullptr if no such file is listed.
  const BundleFile* weights_at(const std::string& location) const;
};

/// One operating point of the codec.
struct Rate {
  std::uint32_t index = 0;
  std::uint32_t number = 0;  // what an .rdc file stores: the level where the bundle has levels, else the index
  std::string label;
  double lambda_r = 0;
  double bpp = 0;
  std::string schedule;
  ModelId model_id{};
  std::map<std::string, std::string> graphs;                    // role -> graph id
  std::vector<std::pair<std::string, BundleFile>> step_tables;  // schedule name -> .npz, in the file's order
  BundleFile entropy;

  /// Returns the step table for a schedule; Error(kInternal) if there is none.
  const BundleFile& step_table(const std::string& schedule_name) const;
};

/// The input of graphs that rates share, analysis and synthesis: a row of numbers for each level.
inline constexpr const char* kLevelInput = "level";

/// The scale of rates that share their graphs, from the largest, 0, to the smallest, `count` - 1.
struct Levels {
  std::uint32_t count = 0;
  BundleFile file;  // .npz with the rows that analysis and synthesis read, one a level
};

/// A checked bundle.json; every path in it exists and lies inside `folder`.
struct Bundle {
  std::filesystem::path folder;
  std::string name, family, licence;
  std::uint32_t size_multiple_px = 0;
  std::uint32_t latent_channels = 0;
  std::uint32_t latent_factor_px = 0;
  std::shared_ptr<const BundleFiles> files;
  std::map<std::string, GraphSpec> graphs;
  std::map<std::string, Schedule> schedules;
  std::vector<Rate> rates;  // by index
  std::uint32_t default_rate = 0;
  std::optional<Levels> levels;  // rates between the bundle's own

  /// Returns the rate that a file needs, whose header has `rate`: where the bundle has levels, the last that is not
  /// beyond that level, or the first. Error(kBundleMismatch) names both models.
  const Rate& rate_of(const ModelId& model_id, std::uint32_t rate) const;
  /// Returns the rate's schedule, or, of the same sampler, the one with n_steps if that is not 0;
  /// Error(kInvalidArgument) lists the choices.
  const Schedule& choose_schedule(const Rate& rate, std::uint32_t n_steps) const;
  /// Returns a graph of a rate by role: synthesis, control, unet_step, vae_decoder.
  const GraphSpec& graph_of(const Rate& rate, const std::string& role) const;
};

/// Returns the bundle in this folder. `verify`: compare the SHA-256 of every file, now and when it is used; lengths are
/// compared in any case.
/// Throws Error: kBundleNotFound, kBundleCorrupt, kBundle for a schema that is not known.
Bundle read_bundle(const std::filesystem::path& folder, bool verify = true);

/// Returns the folder of a bundle: an existing path as it is, a name from the first of `search_folders` that has it; no
/// source is the name "tiny". Throws Error(kBundleNotFound), which lists every place that was looked at.
std::filesystem::path find_bundle(const std::optional<std::string>& source);

/// Returns the folders that hold bundles by name, first match first.
std::vector<std::filesystem::path> search_folders();

}  // namespace rdeic
