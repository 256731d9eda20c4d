// Any bytes are a bundle.json or an Error, in a folder with files of the names that the corpus has, and links.

#include "bundle.h"

#include <algorithm>
#include <fstream>
#include <iterator>

#include "errors_only.h"
#include "families/family.h"
#include "temporary_folder.h"

namespace {

namespace fs = std::filesystem;
using rdeic::Bundle;
using rdeic::Result;
using rdeic::fuzz::returns;

const fs::path& folder() {
  static const rdeic::testing::TemporaryFolder temporary;
  static const fs::path made = [] {
    fs::path path = temporary.path() / "bundle";
    fs::create_directories(path / "sub");
    for (const char* name : {"g", "sub/t"}) std::ofstream(path / name) << 'x';
    fs::create_symlink("../g", path / "sub/inside");
    fs::create_symlink("..", path / "outside");
    fs::create_symlink("loop", path / "loop");
    return path;
  }();
  return made;
}

/// Checks what the runtime relies on of a rate's graph: latents and rows that have a shape, and forms to choose from.
void check(const Bundle& bundle, const rdeic::Rate& rate, const rdeic::families::Role& role) {
  const rdeic::GraphSpec& graph = bundle.reference(rate.graphs.at(role.name));
  if (bundle.levels && role.at_a_level && graph.input(rdeic::kLevelInput) == nullptr) __builtin_trap();
  for (const char* row : {rdeic::kStepInput, rdeic::kLevelInput}) {
    const rdeic::TensorSpec* const spec = graph.input(row);
    if (spec != nullptr && (spec->shape.size() != 2 || !spec->shape[1].is_fixed())) __builtin_trap();
  }
  for (const auto& [latent, reader] : bundle.family->latents())
    if (reader == role.name && graph.input(latent) == nullptr) __builtin_trap();
  for (const auto* side : {&graph.inputs, &graph.outputs}) {
    for (const rdeic::TensorSpec& tensor : *side) {
      tensor.resolve({1, 1024, 1024});
      const auto grid = tensor.grid();
      if (grid && bundle.size_multiple_px % grid->per_unit != 0) __builtin_trap();
    }
  }
  for (const char* backend : {"cpu", "cuda"})
    if (bundle.preference(backend, rdeic::kAuto).size() != std::size(rdeic::kForms)) __builtin_trap();
}

/// Checks what the runtime relies on.
void check(const Bundle& bundle) {
  for (const auto& [name, file] : *bundle.files) {
    const fs::path path = fs::canonical(bundle.folder / name);
    const bool inside = path.string().starts_with(bundle.folder.string() + "/");
    if (!inside || fs::file_size(path) != file.size_bytes) __builtin_trap();
  }
  if (bundle.default_rate >= bundle.rates.size()) __builtin_trap();
  for (std::uint32_t level = 0; bundle.levels && level < bundle.levels->count; ++level) {
    const rdeic::Rate& rate = bundle.rate_of(bundle.rates[0].model_id, level);
    if (rate.index != 0 && rate.number > level) __builtin_trap();
  }
  for (const rdeic::Rate& rate : bundle.rates) {
    if (&bundle.rate_of(rate.model_id, rate.number) != &rate) __builtin_trap();
    for (const rdeic::families::Role& role : bundle.family->roles())
      if (rate.graphs.contains(role.name)) check(bundle, rate, role);
    rate.step_table(bundle.choose_schedule(rate, 0)->name);
    for (const auto& [name, file] : rate.step_tables) {
      const auto n_steps = static_cast<std::uint32_t>(bundle.schedules.at(name).n_steps());
      returns({Result::kInvalidArgument},
              [&] { rate.step_table(bundle.choose_schedule(rate, n_steps)->name); });  // not of another sampler
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  std::ofstream(folder() / "bundle.json", std::ios::binary)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(bytes));
  returns({Result::kBundleCorrupt, Result::kBundle}, [] { check(rdeic::read_bundle(folder(), false)); });
  return 0;
}
