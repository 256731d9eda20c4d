#include "bundle.h"

#include <algorithm>
#include <array>
#include <cfloat>
#include <cinttypes>
#include <cmath>
#include <fstream>
#include <iterator>
#include <set>
#include <span>
#include <thread>

#include "entropy/workers.h"
#include "input_limits.h"
#include "json_reader.h"
#include "sha256.h"
#include "status.h"

namespace rdeic {

namespace {

constexpr const char* kManifest = "bundle.json";
constexpr std::uint64_t kSchema = 1;
constexpr std::size_t kMaxFiles = 4096;
constexpr std::size_t kMaxSteps = 1000;
constexpr std::size_t kMaxTensors = 256;
constexpr std::size_t kMaxRank = 8;
constexpr std::size_t kMaxRates = 256;
constexpr std::int64_t kMinLevels = 2, kMaxLevels = 256;
constexpr std::string_view kResidual = "residual_";
// Tensors [B, C, h, w] with the bundle's latent channels.
constexpr std::string_view kLatents[] = {"z_c", "z_n", "noise", "z_prev", "z_0"};

using Names = std::set<std::string>;

/// What each role's graph must be called with and return; control and unet_step also share residual_0, residual_1, ...
struct Role {
  const char* name;
  Names inputs, outputs;
};

std::array<Role, 5> roles(bool have_levels) {
  const auto at_a_level = [&](const char* input) { return have_levels ? Names{input, kLevelInput} : Names{input}; };
  return {{{"analysis", at_a_level("image"), {"y", "vq_indices"}},
           {"synthesis", at_a_level("y_hat"), {"z_c", "hint"}},
           {"control", {"z_n", "hint", "step"}, {}},
           {"unet_step", {"z_n", "step", "coefficients", "noise"}, {"z_prev"}},
           {"vae_decoder", {"z_0"}, {"image"}}}};
}

Names names_of(const std::vector<TensorSpec>& specs) {
  Names result;
  for (const TensorSpec& spec : specs) result.insert(spec.name);
  return result;
}

std::string joined(const Names& names) {
  std::string result;
  for (const std::string& name : names) result += (result.empty() ? "" : ", ") + printable(name);
  return result;
}

/// Returns whether this is one relative path: no drive, no backslash, no empty, "." or ".." part, nothing unprintable.
bool is_safe_path(const std::string& path) {
  constexpr std::string_view kSafe = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-+@ ";
  for (std::size_t start = 0; start <= path.size();) {
    const std::size_t end = std::min(path.find('/', start), path.size());
    const std::string part = path.substr(start, end - start);
    if (part.empty() || part == "." || part == ".." || part.find_first_not_of(kSafe) != std::string::npos) return false;
    start = end + 1;
  }
  return true;
}

bool is_name(const std::string& text, std::size_t most, std::string_view first, std::string_view rest) {
  return !text.empty() && text.size() <= most && first.find(text[0]) != std::string_view::npos &&
         text.find_first_not_of(rest) == std::string::npos;
}

/// Turns a document into a `Bundle`: the schema first, then what a schema cannot say.
class ManifestReader {
 public:
  ManifestReader(const std::filesystem::path& folder, const JsonValue& document, const std::string& where, bool verify)
      : document_(document, where), where_(where), verify_(verify) {
    bundle_.folder = folder;
  }

  Bundle read() {
    document_.check_keys({"schema", "name", "family", "licence", "provenance", "size_multiple_px", "latent", "files",
                          "graphs", "schedules", "rates", "default_rate", "calibration"},
                         {"levels"});
    document_.at("schema").integer(std::int64_t{kSchema}, std::int64_t{kSchema});
    read_facts();
    read_files();
    for (const auto& [name, entry] : document_.at("graphs").members(1))
      bundle_.graphs.emplace(name, graph(name, entry));
    for (const auto& [name, graph] : bundle_.graphs) check_variants(graph);
    for (const auto& [name, entry] : document_.at("schedules").members(1))
      bundle_.schedules.emplace(name, schedule(name, entry));
    if (document_.has("levels")) read_levels(document_.at("levels"));
    for (const JsonReader& entry : document_.at("rates").elements(1, kMaxRates)) add_rate(entry);
    if (bundle_.levels) check_levels();
    bundle_.default_rate = static_cast<std::uint32_t>(document_.at("default_rate").integer(0, 255));
    if (bundle_.default_rate >= bundle_.rates.size())
      corrupt(text("default_rate is %" PRIu32 ", but there are %zu rates", bundle_.default_rate, bundle_.rates.size()));
    return std::move(bundle_);
  }

 private:
  [[noreturn]] void corrupt(const std::string& problem) const {
    fail(Result::kBundleCorrupt, "%s: %s", where_.c_str(), problem.c_str());
  }

  void read_facts() {
    constexpr std::string_view kLower = "abcdefghijklmnopqrstuvwxyz";
    constexpr std::string_view kAlphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    bundle_.name = document_.at("name").text();
    if (!is_name(bundle_.name, 64, kAlphanumeric, std::string(kAlphanumeric) + "._-"))
      document_.at("name").wrong("a name of up to 64 letters, digits, '.', '_' and '-'");
    bundle_.family = document_.at("family").text();
    if (!is_name(bundle_.family, 32, kLower, std::string(kLower) + "0123456789_-"))
      document_.at("family").wrong("a name of up to 32 lower-case letters, digits, '_' and '-'");
    bundle_.licence = document_.at("licence").text(1);
    document_.at("provenance").members(0);
    document_.at("calibration").members(0);

    bundle_.size_multiple_px = static_cast<std::uint32_t>(document_.at("size_multiple_px").integer(64, 4096));
    const JsonReader latent = document_.at("latent");
    latent.check_keys({"channels", "factor_px"});
    bundle_.latent_channels = static_cast<std::uint32_t>(latent.at("channels").integer(1, 1024));
    bundle_.latent_factor_px = static_cast<std::uint32_t>(latent.at("factor_px").integer(1, 64));
    if (bundle_.size_multiple_px % 64 != 0) corrupt("size_multiple_px is not a multiple of 64");
    if (bundle_.size_multiple_px % bundle_.latent_factor_px != 0)
      corrupt("size_multiple_px is not a multiple of latent.factor_px");
  }

  void read_files() {
    BundleFiles files;
    for (const auto& [name, entry] : document_.at("files").members(1, kMaxFiles)) {
      entry.check_keys({"sha256", "bytes"});
      if (name.size() > kMaxPathBytes)
        corrupt(text("a path of %zu characters; at most %zu are allowed", name.size(), kMaxPathBytes));
      if (!is_safe_path(name) || name == kManifest)
        corrupt("'" + printable(name) + "' is not a relative path of a file inside the bundle");
      BundleFile file{bundle_.folder / name, static_cast<std::uint64_t>(entry.at("bytes").integer(0, INT64_MAX)),
                      entry.at("sha256").hex_digits(64), verify_};
      std::error_code error;
      const std::filesystem::path target = std::filesystem::weakly_canonical(file.path, error);
      if (error) corrupt("the path '" + printable(name) + "' is too long, or a link to itself");
      const auto [end, rest] =
          std::mismatch(bundle_.folder.begin(), bundle_.folder.end(), target.begin(), target.end());
      if (end != bundle_.folder.end()) corrupt("'" + printable(name) + "' is a link that leaves the bundle's folder");
      files.emplace(name, std::move(file));
    }
    bundle_.files = std::make_shared<const BundleFiles>(std::move(files));
  }

  /// Returns a file that must be listed.
  const BundleFile& listed(const JsonReader& entry, const std::string& user) const {
    const std::string name = entry.text();
    const auto found = bundle_.files->find(name);
    if (found == bundle_.files->end()) corrupt(user + ": '" + printable(name) + "' is not among the bundle's files");
    return found->second;
  }

  template <typename T>
  const T& known(const std::string& name, const std::map<std::string, T>& table, const std::string& user) const {
    const auto found = table.find(name);
    if (found == table.end()) corrupt(user + " '" + printable(name) + "' is not defined");
    return found->second;
  }

  GraphSpec graph(const std::string& name, const JsonReader& entry) const {
    entry.check_keys({"file", "precision", "inputs", "outputs"}, {"variants"});
    GraphSpec result;
    result.id = name;
    result.file = listed(entry.at("file"), "graph '" + printable(name) + "'");
    if (result.file.size_bytes > kMaxOnnxBytes)
      corrupt(text("graph '%s' has %" PRIu64 " bytes; no ONNX file has more than 2 GiB", printable(name).c_str(),
                   result.file.size_bytes));
    const std::string path = entry.at("file").text();
    result.folder = path.substr(0, path.rfind('/') + 1);  // npos + 1 is 0
    result.listed = bundle_.files;
    result.precision = entry.at("precision").choice({"fp32", "fp16", "int8"});
    result.inputs = tensors(entry.at("inputs"));
    result.outputs = tensors(entry.at("outputs"));
    if (entry.has("variants")) {
      entry.at("variants").check_keys({}, {"fp16", "int8", "int8-cpu"});
      for (const auto& [form, id] : entry.at("variants").members(0)) result.variants.emplace(form, id.text());
    }
    return result;
  }

  static std::vector<TensorSpec> tensors(const JsonReader& entries) {
    std::vector<TensorSpec> result;
    for (const JsonReader& entry : entries.elements(1, kMaxTensors)) {
      entry.check_keys({"name", "dtype", "shape"});
      TensorSpec& spec = result.emplace_back();
      spec.name = entry.at("name").text(1);
      spec.dtype = entry.at("dtype").choice({"uint8", "int64", "float32", "float16"});
      for (const JsonReader& side : entry.at("shape").elements(0, kMaxRank)) {
        if (side.is_text() && !side.text(1).empty())
          spec.shape.push_back(kDynamic);
        else
          spec.shape.push_back(side.integer(1, INT64_MAX));
      }
    }
    return result;
  }

  void check_variants(const GraphSpec& graph) const {
    for (const auto& [form, id] : graph.variants) {
      const std::string user = "graph '" + printable(graph.id) + "': its " + form + " variant";
      const GraphSpec& variant = known(id, bundle_.graphs, user);
      if (names_of(variant.inputs) != names_of(graph.inputs) || names_of(variant.outputs) != names_of(graph.outputs))
        corrupt(user + " has other inputs or outputs");
      const std::string precision = form.ends_with("-cpu") ? form.substr(0, form.size() - 4) : form;
      if (variant.precision != precision || variant.precision == graph.precision)
        corrupt(user + " is in " + variant.precision);
    }
  }

  Schedule schedule(const std::string& name, const JsonReader& entry) const {
    entry.check_keys({"sampler", "timesteps", "abar_start", "a", "b", "c"});
    Schedule result;
    result.name = name;
    result.sampler = entry.at("sampler").text(1);
    for (const JsonReader& timestep : entry.at("timesteps").elements(1, kMaxSteps))
      result.timesteps.push_back(static_cast<std::int32_t>(timestep.integer(0, 999)));
    result.abar_start = entry.at("abar_start").number();
    if (!(result.abar_start >= 0 && result.abar_start <= 1)) entry.at("abar_start").wrong("a number from 0 to 1");
    const auto coefficients = [&](const char* key) {
      std::vector<double> values;
      for (const JsonReader& value : entry.at(key).elements(1, kMaxSteps)) {
        values.push_back(value.number());
        if (!(std::fabs(values.back()) <= FLT_MAX)) value.wrong("a finite float32");
      }
      if (values.size() != result.n_steps())
        corrupt(text("schedule '%s': timesteps has %zu entries and %s %zu; they need one a step",
                     printable(name).c_str(), result.n_steps(), key, values.size()));
      return values;
    };
    result.a = coefficients("a");
    result.b = coefficients("b");
    result.c = coefficients("c");
    return result;
  }

  void read_levels(const JsonReader& entry) {
    entry.check_keys({"file", "count"});
    bundle_.levels = Levels{static_cast<std::uint32_t>(entry.at("count").integer(kMinLevels, kMaxLevels)),
                            listed(entry.at("file"), "levels")};
  }

  /// Checks what levels need of the rates: that they lie on them in order, and differ in nothing that a level picks.
  void check_levels() const {
    std::int64_t last = -1;
    for (const Rate& rate : bundle_.rates) {
      if (std::int64_t{rate.number} <= last || rate.number >= bundle_.levels->count)
        corrupt(text("rate %" PRIu32 " has the level %" PRIu32 "; levels must increase, and be under %" PRIu32,
                     rate.index, rate.number, bundle_.levels->count));
      last = rate.number;
      if (rate.graphs != bundle_.rates[0].graphs || rate.model_id != bundle_.rates[0].model_id)
        corrupt("rates have levels, but not the same graphs and the same model id");
    }
  }

  void add_rate(const JsonReader& entry) {
    entry.check_keys({"index", "label", "lambda_r", "bpp", "schedule", "model_id", "graphs", "step_tables", "entropy"},
                     {"level", "bit_worth"});
    Rate rate;
    rate.index = static_cast<std::uint32_t>(entry.at("index").integer(0, 255));
    if (rate.index != bundle_.rates.size())
      corrupt(text("rates have indices other than 0, 1, 2, ...: %" PRIu32 " is at place %zu", rate.index,
                   bundle_.rates.size()));
    const std::string user = text("rate %" PRIu32, rate.index);
    if (bundle_.levels.has_value() != entry.has("level"))
      corrupt(user + (bundle_.levels ? ": it has no level, but the bundle has levels"
                                     : ": it has a level, but the bundle has none"));
    rate.number =
        bundle_.levels ? static_cast<std::uint32_t>(entry.at("level").integer(0, kMaxLevels - 1)) : rate.index;
    rate.label = entry.at("label").text();
    rate.lambda_r = entry.at("lambda_r").positive_number();
    rate.bpp = entry.at("bpp").positive_number();
    if (entry.has("bit_worth")) {  // which is the encoder's business
      const double worth = entry.at("bit_worth").number();
      if (!(worth >= 0 && worth <= 1)) entry.at("bit_worth").wrong("a number from 0 to 1");
    }
    rate.schedule = entry.at("schedule").text();
    const std::string digits = entry.at("model_id").hex_digits(2 * rate.model_id.size());
    for (std::size_t i = 0; i < rate.model_id.size(); ++i)
      rate.model_id[i] = static_cast<std::uint8_t>(std::stoi(digits.substr(2 * i, 2), nullptr, 16));
    entry.at("graphs").check_keys({"analysis", "synthesis", "control", "unet_step", "vae_decoder"});
    for (const auto& [role, id] : entry.at("graphs").members(0)) {
      rate.graphs.emplace(role, id.text());
      known(rate.graphs[role], bundle_.graphs, text("%s: %s graph", user.c_str(), role.c_str()));
    }
    check_roles(rate, user);
    known(rate.schedule, bundle_.schedules, user + ": schedule");
    bool has_table = false;
    for (const auto& [name, file] : entry.at("step_tables").members(1)) {
      known(name, bundle_.schedules, user + ": schedule");
      rate.step_tables.emplace_back(name, listed(file, user + ": step table"));
      has_table = has_table || name == rate.schedule;
    }
    if (!has_table) corrupt(user + ": no step table for its schedule '" + printable(rate.schedule) + "'");
    rate.entropy = listed(entry.at("entropy"), user + ": entropy model");
    bundle_.rates.push_back(std::move(rate));
  }

  void check_roles(const Rate& rate, const std::string& user) const {
    Names residuals;
    for (const TensorSpec& output : bundle_.graphs.at(rate.graphs.at("control")).outputs)
      if (output.name.starts_with(kResidual)) residuals.insert(output.name);
    for (Role& role : roles(bundle_.levels.has_value())) {
      if (role.name == std::string_view("unet_step")) role.inputs.insert(residuals.begin(), residuals.end());
      if (role.name == std::string_view("control")) role.outputs.insert(residuals.begin(), residuals.end());
      const GraphSpec& graph = bundle_.graphs.at(rate.graphs.at(role.name));
      const Names inputs = names_of(graph.inputs), outputs = names_of(graph.outputs);
      if (inputs != role.inputs || outputs != role.outputs)
        corrupt(user + ": graph '" + printable(graph.id) + "' maps " + joined(inputs) + " to " + joined(outputs) +
                "; as " + role.name + " it must map " + joined(role.inputs) + " to " + joined(role.outputs));
      for (const TensorSpec& tensor : graph.inputs) check_shape(user, graph, tensor);
      for (const TensorSpec& tensor : graph.outputs) check_shape(user, graph, tensor);
    }
  }

  /// Checks the dimensions that the runtime itself counts on.
  void check_shape(const std::string& user, const GraphSpec& graph, const TensorSpec& tensor) const {
    const std::vector<std::int64_t>& shape = tensor.shape;
    const std::string where = user + ": graph '" + printable(graph.id) + "': " + printable(tensor.name);
    if (std::ranges::find(kLatents, tensor.name) != std::end(kLatents) &&
        (shape.size() != 4 || shape[1] != static_cast<std::int64_t>(bundle_.latent_channels)))
      corrupt(where + " should have four dimensions, the second of them latent.channels, " +
              std::to_string(bundle_.latent_channels));
    if ((tensor.name == "step" || tensor.name == kLevelInput) &&
        (shape.size() != 2 || shape[0] != 1 || shape[1] == kDynamic))
      corrupt(where + " should have the shape [1, D] with a number for D");
  }

  JsonReader document_;
  const std::string& where_;
  bool verify_;
  Bundle bundle_;
};

/// Returns the text of a file of at most kMaxManifestBytes.
std::string read_manifest(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error))
    fail(Result::kBundleNotFound, "%s is not a bundle: it has no %s", path.parent_path().c_str(), kManifest);
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(Result::kIo, "%s: cannot be opened", path.c_str());
  std::string data(kMaxManifestBytes + 1, '\0');
  file.read(data.data(), static_cast<std::streamsize>(data.size()));
  if (file.bad()) fail(Result::kIo, "%s: cannot be read", path.c_str());
  data.resize(static_cast<std::size_t>(file.gcount()));
  if (data.size() > kMaxManifestBytes)
    fail(Result::kBundleCorrupt, "%s: longer than %" PRIu64 " bytes; this is not a bundle's manifest", path.c_str(),
         kMaxManifestBytes);
  return data;
}

/// Checks all listed files, several at a time, as hashing them is most of what opening a bundle takes; of several that
/// are wrong, the first by name decides.
void check_files(const BundleFiles& files, bool verify) {
  constexpr unsigned kMaxThreads = 4;
  entropy::Workers workers(verify ? std::min(std::thread::hardware_concurrency(), kMaxThreads) : 1);
  workers.run(files.size(),
              [&](std::size_t i) { std::next(files.begin(), static_cast<std::ptrdiff_t>(i))->second.check(); });
}

}  // namespace

const TensorSpec* GraphSpec::input(const std::string& name) const {
  const auto found = std::ranges::find(inputs, name, &TensorSpec::name);
  return found == inputs.end() ? nullptr : &*found;
}

const BundleFile* GraphSpec::weights_at(const std::string& location) const {
  if (!listed) return nullptr;
  const auto found = listed->find(folder + location);
  return found == listed->end() ? nullptr : &found->second;
}

const BundleFile& Rate::step_table(const std::string& schedule_name) const {
  for (const auto& [name, file] : step_tables)
    if (name == schedule_name) return file;
  fail(Result::kInternal, "rate %" PRIu32 " has no step table for schedule '%s'", index,
       printable(schedule_name).c_str());
}

const Rate& Bundle::rate_of(const ModelId& model_id, std::uint32_t rate) const {
  if (levels && rate < levels->count && rates[0].model_id == model_id) {
    const auto beyond = std::ranges::upper_bound(rates, rate, {}, &Rate::number);
    return beyond == rates.begin() ? rates.front() : *std::prev(beyond);
  }
  if (!levels && rate < rates.size() && rates[rate].model_id == model_id) return rates[rate];
  std::string has;
  for (const Rate& one : rates)
    has += text("%srate %" PRIu32 ": %s", has.empty() ? "" : ", ", one.index, hex(one.model_id).c_str());
  fail(Result::kBundleMismatch,
       "the file needs model %s at rate %" PRIu32
       "; bundle '%s' in %s has %s. Load the bundle that the file was made with (by path, or from a folder in "
       "RDEIC_RT_BUNDLES).",
       hex(model_id).c_str(), rate, name.c_str(), folder.c_str(), has.c_str());
}

const Schedule& Bundle::choose_schedule(const Rate& rate, std::uint32_t n_steps) const {
  const Schedule& own = schedules.at(rate.schedule);
  if (n_steps == 0 || n_steps == own.n_steps()) return own;
  std::set<std::size_t> choices;
  const Schedule* found = nullptr;
  for (const auto& [schedule_name, file] : rate.step_tables) {
    const Schedule& schedule = schedules.at(schedule_name);
    if (schedule.sampler != own.sampler) continue;
    choices.insert(schedule.n_steps());
    if (schedule.n_steps() == n_steps) found = &schedule;
  }
  if (found) return *found;
  std::string list;
  for (const std::size_t choice : choices) list += (list.empty() ? "" : " or ") + std::to_string(choice);
  fail(Result::kInvalidArgument, "%" PRIu32 " steps: rate %" PRIu32 " of bundle '%s' decodes in %s steps (default %zu)",
       n_steps, rate.index, name.c_str(), list.c_str(), own.n_steps());
}

const GraphSpec& Bundle::graph_of(const Rate& rate, const std::string& role) const {
  return graphs.at(rate.graphs.at(role));
}

Bundle read_bundle(const std::filesystem::path& folder, bool verify) {
  std::error_code error;
  const std::filesystem::path real = std::filesystem::canonical(folder, error);
  if (error) fail(Result::kBundleNotFound, "%s is not a bundle: there is no such folder", folder.c_str());
  const std::string where = (real / kManifest).string();
  const JsonValue document = parse_json(read_manifest(where), where);
  const JsonReader reader(document, where);
  if (!reader.is_object()) fail(Result::kBundleCorrupt, "%s: holds no object", where.c_str());
  if (const JsonValue* const schema = document.find("schema")) {
    const auto* const natural = std::get_if<std::uint64_t>(&schema->value);
    if (JsonReader(*schema, where).is_integer() && (!natural || *natural != kSchema))
      fail(Result::kBundle,
           "%s: another schema than this version of librdeic reads, schema %" PRIu64
           ". Upgrade librdeic, or export the bundle again.",
           where.c_str(), kSchema);
  }
  Bundle bundle = ManifestReader(real, document, where, verify).read();
  check_files(*bundle.files, verify);
  return bundle;
}

}  // namespace rdeic
