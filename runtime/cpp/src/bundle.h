#pragma once

// bundle.json -> Bundle: schema, family, references, paths that stay inside, hashes; and where bundles are looked for
// (docs/bundle.md). What is in the document is checked in bundle.cc, what is in the folder in bundle_folder.cc.
//
//   bundle.json -> size -> JSON -> family, schema -> references -> paths -> lengths, SHA-256 -> Bundle
//
// Nothing is loaded here but bundle.json: graphs go through graph_file.h to a backend, tables to `Arrays`, each on
// first use.

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bundle_file.h"
#include "container.h"
#include "schedule.h"
#include "tensor_spec.h"

namespace rdeic {

namespace families {
class Family;
}

/// What a graph is; the earlier, the nearer to what was trained (docs/bundle.md, "Fields").
inline constexpr std::string_view kForms[] = {"fp32", "fp16", "fp16-cuda", "int8", "int8-cpu"};
/// What a user asks for: one of these, or whatever runs best.
inline constexpr std::string_view kPrecisions[] = {"fp32", "fp16", "int8"};
inline constexpr std::string_view kAuto = "auto";

/// The files of a bundle by relative path: every one but bundle.json.
using BundleFiles = std::map<std::string, BundleFile>;

/// One ONNX graph of a bundle, in one form: where it lies, and what goes in and out, in the graph's order.
struct GraphSpec {
  std::string id;                             // the same for all forms
  std::string form;                           // one of kForms
  BundleFile file;                            // `read_graph` returns what a backend may load of it
  std::string folder;                         // of the file, in the bundle: empty, or with a slash at its end
  std::shared_ptr<const BundleFiles> listed;  // in which weights of the graph may lie
  std::vector<TensorSpec> inputs, outputs;

  /// Returns the input of this name, or nullptr.
  const TensorSpec* input(const std::string& name) const;
  /// Returns the output of this name, or nullptr.
  const TensorSpec* output(const std::string& name) const;
  /// Returns the file at a path from the graph's folder, as the graph gives it, or nullptr if no such file is listed.
  const BundleFile* weights_at(const std::string& location) const;
};

/// One operating point of the codec.
struct Rate {
  std::uint32_t index = 0;
  std::uint32_t number = 0;  // what an .rdc file stores: the level where the bundle has levels, else the index
  std::string label;
  double bpp = 0;
  ModelId model_id{};
  std::map<std::string, std::string> graphs;  // role, as the bundle's family has them -> graph id
  BundleFile entropy;
  std::optional<std::string> schedule;                          // nothing where the family has no steps
  std::vector<std::pair<std::string, BundleFile>> step_tables;  // schedule name -> .npz, in the file's order
  std::optional<double> lambda_r;                               // weight of the distortion in training, where known
  bool is_guided = true;                                        // whether sharpness other than 1 means something to it

  /// Returns the step table for a schedule; Error(kInternal) if there is none.
  const BundleFile& step_table(const std::string& schedule_name) const;
};

/// The input of graphs that stands for a step: a row of numbers for each (docs/bundle.md, "Step tables").
inline constexpr const char* kStepInput = "step";
/// The input of graphs that rates share: a row of numbers for each level.
inline constexpr const char* kLevelInput = "level";

/// The scale of rates that share their graphs, from the largest, 0, to the smallest, `count` - 1.
struct Levels {
  std::uint32_t count = 0;
  BundleFile file;  // .npz with the rows that the graphs read, one array a role and one row a level
};

/// A checked bundle.json; of one that was read from a folder, every path exists and lies inside `folder`.
struct Bundle {
  std::filesystem::path folder;
  std::string name, licence;
  const families::Family* family = nullptr;  // how its graphs follow each other
  std::uint32_t size_multiple_px = 0;        // image sides are padded to a multiple of this, the unit of grids
  std::shared_ptr<const BundleFiles> files;
  std::map<std::string, std::map<std::string, GraphSpec>> graphs;  // id -> form -> graph
  std::map<std::string, std::vector<std::string>> preferred;       // name of a backend -> forms, the fastest first
  std::map<std::string, Schedule> schedules;
  std::vector<Rate> rates;  // by index
  std::uint32_t default_rate = 0;
  std::optional<Levels> levels;  // rates between the bundle's own

  /// Returns a graph in the form nearest to what was trained.
  const GraphSpec& reference(const std::string& graph_id) const;
  /// Returns the forms of a precision, or for kAuto all, in the order that a backend should take them in.
  std::vector<std::string> preference(const std::string& backend, std::string_view precision) const;
  /// Returns whether `rate_of` would return a rate.
  bool has(const ModelId& model_id, std::uint32_t rate) const;
  /// Returns the rate that a file needs, whose header has `rate`: where the bundle has levels, the last that is not
  /// beyond that level, or the first. Error(kBundleMismatch) names both models.
  const Rate& rate_of(const ModelId& model_id, std::uint32_t rate) const;
  /// Returns the rate's schedule, or, of the same sampler, the one with n_steps if that is not 0; nullptr if the family
  /// has no steps. Error(kInvalidArgument) lists the choices.
  const Schedule* choose_schedule(const Rate& rate, std::uint32_t n_steps) const;
  /// Throws Error(kInvalidArgument) for a sharpness that means nothing to the rate.
  void check_sharpness(const Rate& rate, double sharpness) const;
};

/// The file that describes a bundle.
inline constexpr const char* kManifest = "bundle.json";

/// Returns the bundle that the text of a bundle.json describes, as far as that alone can tell: no file is looked at.
/// `folder`: where its files lie, which messages name. `verify`: compare hashes when files are used. `known`: the
/// families that it may be of, which must outlive it. Throws Error: kBundleCorrupt, kBundle for a schema or a family
/// that is not known.
Bundle parse_bundle(std::string_view manifest, const std::filesystem::path& folder, bool verify,
                    std::span<const families::Family* const> known);

/// Returns the bundle in this folder. `verify`: compare the SHA-256 of every file, now and when it is used; lengths are
/// compared in any case. Throws Error: kBundleNotFound, and what `parse_bundle` throws.
Bundle read_bundle(const std::filesystem::path& folder, bool verify, std::span<const families::Family* const> known);
/// The same with the families of this library.
Bundle read_bundle(const std::filesystem::path& folder, bool verify = true);

/// Returns the folder of a bundle: an existing path as it is, a name from the first of `search_folders` that has it; no
/// source is the name "tiny-2". Throws Error(kBundleNotFound), which lists every place that was looked at.
std::filesystem::path find_bundle(const std::optional<std::string>& source);

/// Returns the folders that hold bundles by name, first match first.
std::vector<std::filesystem::path> search_folders();

/// Returns the folder of every bundle that `find_bundle` would return by name, in the order of `search_folders`.
std::vector<std::filesystem::path> installed_bundles();

/// Returns the first installed bundle that has the model that a file needs, the default bundle before all others.
/// Manifests are read, up to that bundle's, and no hashes are compared; a bundle that cannot be read is passed over.
/// Throws Error(kBundleMismatch), which lists every place that was looked at.
Bundle find_bundle_for(const Header& header);

}  // namespace rdeic
