#include "bundle.h"

#include <algorithm>
#include <cfloat>
#include <cinttypes>
#include <cmath>
#include <iterator>
#include <set>
#include <span>
#include <string_view>

#include "families/family.h"
#include "input_limits.h"
#include "json_reader.h"
#include "sha256.h"
#include "status.h"

namespace rdeic {

namespace {

constexpr std::uint64_t kSchema = 2;
constexpr std::size_t kMaxFiles = 4096;
constexpr std::size_t kMaxSteps = 1000;
constexpr std::size_t kMaxTensors = 256;
constexpr std::size_t kMaxRank = 8;
constexpr std::size_t kMaxRates = 256;
constexpr std::int64_t kMinLevels = 2, kMaxLevels = 256;
// Inputs that are a row of numbers, [1, D].
constexpr std::string_view kRows[] = {kStepInput, kLevelInput};

using families::Family;
using families::Names;
using families::Role;

const TensorSpec* last_of(const std::vector<TensorSpec>& specs, const std::string& name) {
  const auto found = std::find_if(specs.rbegin(), specs.rend(), [&](const auto& spec) { return spec.name == name; });
  return found == specs.rend() ? nullptr : &*found;
}

Names names_of(const std::vector<TensorSpec>& specs) {
  Names result;
  for (const TensorSpec& spec : specs) result.insert(spec.name);
  return result;
}

bool is_one_of(std::span<const std::string_view> names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
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
  ManifestReader(const std::filesystem::path& folder, const JsonValue& document, const std::string& where, bool verify,
                 const Family& family)
      : document_(document, where), where_(where), verify_(verify), family_(family) {
    bundle_.folder = folder;
    bundle_.family = &family;
  }

  Bundle read() {
    document_.check_keys({"schema", "name", "family", "licence", "provenance", "size_multiple_px", "files", "graphs",
                          "preferred", "schedules", "rates", "default_rate", "calibration"},
                         {"levels"});
    document_.at("schema").integer(std::int64_t{kSchema}, std::int64_t{kSchema});
    read_facts();
    read_files();
    for (const auto& [name, entry] : document_.at("graphs").members(1))
      bundle_.graphs.emplace(name, graph(name, entry));
    read_preferred(document_.at("preferred"));
    for (const auto& [name, entry] : document_.at("schedules").members(0))
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
    constexpr std::string_view kAlphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    bundle_.name = document_.at("name").text();
    if (!is_name(bundle_.name, 64, kAlphanumeric, std::string(kAlphanumeric) + "._-"))
      document_.at("name").wrong("a name of up to 64 letters, digits, '.', '_' and '-'");
    bundle_.licence = document_.at("licence").text(1);
    document_.at("provenance").members(0);
    document_.at("calibration").members(0);

    bundle_.size_multiple_px = static_cast<std::uint32_t>(document_.at("size_multiple_px").integer(1, 4096));
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

  /// Returns the graph in each of its forms.
  std::map<std::string, GraphSpec> graph(const std::string& name, const JsonReader& entry) const {
    entry.check_keys({"inputs", "outputs", "forms"});
    const std::string user = "graph '" + printable(name) + "'";
    const std::vector<TensorSpec> inputs = tensors(entry.at("inputs"), user);
    const std::vector<TensorSpec> outputs = tensors(entry.at("outputs"), user);
    for (const TensorSpec& output : outputs) {
      for (const Dim& dim : output.shape) {
        const auto has = [&](const TensorSpec& input) {
          return std::any_of(input.shape.begin(), input.shape.end(),
                             [&](const Dim& one) { return one.free == dim.free; });
        };
        if (!dim.is_fixed() && std::none_of(inputs.begin(), inputs.end(), has))
          corrupt(user + ": no input has the free dimensions of " + printable(output.name) + ", " +
                  output.description());
      }
    }
    std::map<std::string, GraphSpec> forms;
    for (const auto& [form, file] : entry.at("forms").members(1)) {
      if (!is_one_of(kForms, form)) entry.at("forms").wrong("an object of forms");
      const std::string path = file.text();
      const std::string folder = path.substr(0, path.rfind('/') + 1);  // npos + 1 is 0
      const GraphSpec& spec = forms[form] = {name, form, listed(file, user), folder, bundle_.files, inputs, outputs};
      if (spec.file.size_bytes > kMaxOnnxBytes)
        corrupt(text("%s has %" PRIu64 " bytes; no ONNX file has more than 2 GiB", user.c_str(), spec.file.size_bytes));
    }
    return forms;
  }

  std::vector<TensorSpec> tensors(const JsonReader& entries, const std::string& user) const {
    std::vector<TensorSpec> result;
    for (const JsonReader& entry : entries.elements(1, kMaxTensors)) {
      entry.check_keys({"name", "dtype", "shape"});
      TensorSpec& spec = result.emplace_back();
      spec.name = entry.at("name").text(1);
      const std::string dtype = entry.at("dtype").choice({"uint8", "int64", "float32", "float16"});
      for (const DType one : {DType::kUint8, DType::kInt64, DType::kFloat32, DType::kFloat16})
        if (dtype == dtype_name(one)) spec.dtype = one;
      for (const JsonReader& side : entry.at("shape").elements(0, kMaxRank)) {
        if (!side.is_text()) {
          spec.shape.push_back({Dim::Free::kNone, side.integer(1, INT64_MAX)});
        } else if (const std::optional<Dim> dim = free_dim(side.text())) {
          spec.shape.push_back(*dim);
        } else {
          side.wrong("a number of 1 or more, or batch, hz or wz, the last two with a factor such as 8*hz");
        }
      }
      if (const auto fault = spec.fault(bundle_.size_multiple_px)) corrupt(user + ": " + *fault);
    }
    return result;
  }

  void read_preferred(const JsonReader& entry) {
    for (const auto& [backend, forms] : entry.members(0)) {
      std::vector<std::string>& order = bundle_.preferred[backend];
      for (const JsonReader& form : forms.elements(1, std::size(kForms))) {
        order.push_back(form.text());
        if (!is_one_of(kForms, order.back())) form.wrong("a form");
        if (std::count(order.begin(), order.end(), order.back()) > 1) forms.wrong("forms that differ");
      }
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
    entry.check_keys({"index", "label", "bpp", "model_id", "graphs", "entropy"},
                     {"level", "lambda_r", "bit_worth", "guided", "schedule", "step_tables"});
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
    if (entry.has("lambda_r")) rate.lambda_r = entry.at("lambda_r").positive_number();
    rate.bpp = entry.at("bpp").positive_number();
    if (entry.has("bit_worth")) {  // which is the encoder's business
      const double worth = entry.at("bit_worth").number();
      if (!(worth >= 0 && worth <= 1)) entry.at("bit_worth").wrong("a number from 0 to 1");
    }
    if (entry.has("guided")) rate.is_guided = entry.at("guided").truth();
    const std::string digits = entry.at("model_id").hex_digits(2 * rate.model_id.size());
    for (std::size_t i = 0; i < rate.model_id.size(); ++i)
      rate.model_id[i] = static_cast<std::uint8_t>(std::stoi(digits.substr(2 * i, 2), nullptr, 16));
    for (const auto& [role, id] : entry.at("graphs").members(0)) rate.graphs.emplace(role, id.text());
    check_roles(rate, user);
    add_schedule(rate, entry, user);
    rate.entropy = listed(entry.at("entropy"), user + ": entropy model");
    bundle_.rates.push_back(std::move(rate));
  }

  /// Checks that what a family needs is there, and nothing that it does not.
  void check_use(bool needed, bool given, const std::string& user, const char* what) const {
    if (needed != given)
      corrupt(user + ": family '" + family_.name() + (needed ? "' needs " : "' has no use for ") + what);
  }

  void add_schedule(Rate& rate, const JsonReader& entry, const std::string& user) const {
    const auto roles = family_.roles();
    const bool has_tables =
        std::any_of(roles.begin(), roles.end(), [](const Role& role) { return role.inputs.contains(kStepInput); });
    check_use(family_.has_steps(), entry.has("schedule"), user, "a schedule");
    check_use(has_tables, entry.has("step_tables"), user, "step tables");
    if (!family_.has_steps()) return;
    rate.schedule = entry.at("schedule").text();
    known(*rate.schedule, bundle_.schedules, user + ": schedule");
    if (!has_tables) return;
    for (const auto& [name, file] : entry.at("step_tables").members(1)) {
      known(name, bundle_.schedules, user + ": schedule");
      rate.step_tables.emplace_back(name, listed(file, user + ": step table"));
    }
    if (std::none_of(rate.step_tables.begin(), rate.step_tables.end(),
                     [&](const auto& table) { return table.first == *rate.schedule; }))
      corrupt(user + ": no step table for its schedule '" + printable(*rate.schedule) + "'");
  }

  /// The tensors that the graphs of a rate make, under one name for all that are alike.
  using Made = std::map<std::string, const TensorSpec*>;

  /// Checks that a rate has a graph for every role of the family, and that they fit together.
  void check_roles(const Rate& rate, const std::string& user) const {
    Names has, must;
    for (const auto& [role, id] : rate.graphs) has.insert(role);
    for (const Role& role : family_.roles()) must.insert(role.name);
    if (has != must)
      corrupt(user + ": it has graphs for " + (has.empty() ? "nothing" : joined(has)) + "; family '" + family_.name() +
              "' has the roles " + joined(must));
    Made made;
    for (const Role& role : family_.roles()) {
      const std::string& id = rate.graphs.at(role.name);
      known(id, bundle_.graphs, user + ": " + role.name + " graph");
      for (const TensorSpec& output : bundle_.reference(id).outputs) made[alias(output.name)] = &output;
    }
    for (const Role& role : family_.roles()) {
      const GraphSpec& graph = bundle_.reference(rate.graphs.at(role.name));
      const std::string where = user + ": graph '" + printable(graph.id) + "'";
      const Names inputs = names_of(graph.inputs), outputs = names_of(graph.outputs);
      Names wanted = expanded(role.inputs, made);
      if (bundle_.levels && role.at_a_level) wanted.insert(kLevelInput);
      if (inputs != wanted || outputs != expanded(role.outputs, made))
        corrupt(where + " maps " + joined(inputs) + " to " + joined(outputs) + "; as " + role.name + " it must map " +
                joined(wanted) + " to " + joined(expanded(role.outputs, made)));
      for (const TensorSpec& tensor : graph.inputs) check_tensor(where, tensor, made);
      for (const TensorSpec& tensor : graph.outputs) check_tensor(where, tensor, made);
    }
  }

  /// Checks the shapes that the runtime itself counts on, and that an input is what another graph makes of it.
  void check_tensor(const std::string& where, const TensorSpec& tensor, const Made& made) const {
    const std::string is = where + ": " + printable(tensor.name) + " is " + tensor.description();
    if (tensor.name == "image") {
      const Dim rows{Dim::Free::kRows, bundle_.size_multiple_px}, columns{Dim::Free::kColumns, rows.factor};
      const TensorSpec image{"image", DType::kUint8, {{Dim::Free::kBatch}, rows, columns, {Dim::Free::kNone, 3}}};
      if (tensor.dtype != image.dtype || tensor.shape != image.shape)
        corrupt(is + ", should be " + image.description());
      return;
    }
    const auto found = made.find(alias(tensor.name));
    if (found != made.end() && (tensor.dtype != found->second->dtype || tensor.shape != found->second->shape))
      corrupt(is + ", but " + printable(found->second->name) + " is " + found->second->description());
    if (!is_one_of(kRows, tensor.name)) return;
    if (tensor.shape.size() != 2 || tensor.shape[0] != Dim{} || !tensor.shape[1].is_fixed())
      corrupt(is + ", should be [1, D] with a number for D");
  }

  /// Returns one name for all tensors that are alike.
  std::string alias(const std::string& name) const {
    return family_.alike().contains(name) ? *family_.alike().begin() : name;
  }

  /// Returns names with "residual_*" replaced by all tensors that graphs make and call residual_...
  static Names expanded(const Names& names, const Made& made) {
    Names result;
    for (const std::string& name : names) {
      if (!name.ends_with('*')) {
        result.insert(name);
        continue;
      }
      for (const auto& [one, spec] : made)
        if (one.starts_with(name.substr(0, name.size() - 1))) result.insert(one);
    }
    return result;
  }

  JsonReader document_;
  const std::string& where_;
  bool verify_;
  const Family& family_;
  Bundle bundle_;
};

/// Returns the family that a document names.
const Family& family_of(const JsonReader& entry, const std::string& where, families::Table known) {
  const std::string name = entry.text();
  if (const Family* const family = families::find(known, name)) return *family;
  std::string names;
  for (const Family* const family : known) names += (names.empty() ? "" : ", ") + family->name();
  fail(Result::kBundle,
       "%s: family '%s' is not part of this version of librdeic, which has: %s. Upgrade librdeic, or take another "
       "bundle",
       where.c_str(), printable(name).c_str(), names.c_str());
}

}  // namespace

const TensorSpec* GraphSpec::input(const std::string& name) const { return last_of(inputs, name); }
const TensorSpec* GraphSpec::output(const std::string& name) const { return last_of(outputs, name); }

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

bool Bundle::has(const ModelId& model_id, std::uint32_t rate) const {
  if (levels) return rate < levels->count && rates[0].model_id == model_id;
  return rate < rates.size() && rates[rate].model_id == model_id;
}

const Rate& Bundle::rate_of(const ModelId& model_id, std::uint32_t rate) const {
  if (has(model_id, rate)) {
    if (!levels) return rates[rate];
    const auto beyond = std::upper_bound(rates.begin(), rates.end(), rate,
                                         [](std::uint32_t number, const Rate& one) { return number < one.number; });
    return beyond == rates.begin() ? rates.front() : *std::prev(beyond);
  }
  std::string models;
  if (levels) {
    models = text("%s at levels 0 to %" PRIu32, hex(rates[0].model_id).c_str(), levels->count - 1);
  } else {
    for (const Rate& one : rates)
      models += text("%srate %" PRIu32 ": %s", models.empty() ? "" : ", ", one.index, hex(one.model_id).c_str());
  }
  fail(Result::kBundleMismatch,
       "the file needs model %s at rate %" PRIu32
       "; bundle '%s' in %s has %s. Load the bundle that the file was made with (by path, from a folder in "
       "RDEIC_RT_BUNDLES, or after rdeic-rt bundle pull SOURCE).",
       hex(model_id).c_str(), rate, name.c_str(), folder.c_str(), models.c_str());
}

const GraphSpec& Bundle::reference(const std::string& graph_id) const {
  const auto& forms = graphs.at(graph_id);
  const auto* const form =
      std::find_if(std::begin(kForms), std::end(kForms), [&](auto one) { return forms.contains(std::string(one)); });
  return forms.at(std::string(*form));  // there is at least one
}

std::vector<std::string> Bundle::preference(const std::string& backend, std::string_view precision) const {
  std::vector<std::string> order;
  if (const auto measured = preferred.find(backend); measured != preferred.end()) order = measured->second;
  for (const std::string_view form : kForms)
    if (std::find(order.begin(), order.end(), form) == order.end()) order.emplace_back(form);
  // int8-cpu is of precision int8, fp16-cuda of fp16.
  std::erase_if(
      order, [&](std::string_view form) { return precision != kAuto && form.substr(0, form.find('-')) != precision; });
  return order;
}

const Schedule* Bundle::choose_schedule(const Rate& rate, std::uint32_t n_steps) const {
  if (!rate.schedule) {
    if (n_steps == 0) return nullptr;
    fail(Result::kInvalidArgument, "%" PRIu32 " steps: bundle '%s' does not decode in steps that can be chosen",
         n_steps, name.c_str());
  }
  const Schedule& own = schedules.at(*rate.schedule);
  if (n_steps == 0 || n_steps == own.n_steps()) return &own;
  std::set<std::size_t> choices = {own.n_steps()};
  const Schedule* found = nullptr;
  for (const auto& [schedule_name, file] : rate.step_tables) {
    const Schedule& schedule = schedules.at(schedule_name);
    if (schedule.sampler != own.sampler) continue;
    choices.insert(schedule.n_steps());
    if (schedule.n_steps() == n_steps) found = &schedule;
  }
  if (found) return found;
  std::string list;
  for (const std::size_t choice : choices) list += (list.empty() ? "" : " or ") + std::to_string(choice);
  fail(Result::kInvalidArgument, "%" PRIu32 " steps: rate %" PRIu32 " of bundle '%s' decodes in %s steps (default %zu)",
       n_steps, rate.index, name.c_str(), list.c_str(), own.n_steps());
}

void Bundle::check_sharpness(const Rate& rate, double sharpness) const {
  if (sharpness == 1.0 || rate.is_guided) return;
  fail(Result::kInvalidArgument,
       "sharpness is %g, but rate %" PRIu32
       " of bundle '%s' cannot be guided: it has no denoiser without control to be compared with. It must be 1",
       sharpness, rate.index, name.c_str());
}

Bundle parse_bundle(std::string_view manifest, const std::filesystem::path& folder, bool verify,
                    families::Table known) {
  const std::string where = (folder / kManifest).string();
  if (manifest.size() > kMaxManifestBytes)
    fail(Result::kBundleCorrupt, "%s: longer than %" PRIu64 " bytes; this is not a bundle's manifest", where.c_str(),
         kMaxManifestBytes);
  const JsonValue document = parse_json(manifest, where);
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
  return ManifestReader(folder, document, where, verify, family_of(reader.at("family"), where, known)).read();
}

}  // namespace rdeic
