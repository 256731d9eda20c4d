// The C functions of librdeic in WebAssembly, which web/rdeic-web/src/exact.js calls.
//
// Every function that can fail returns a number of `Result`. What else it returns is in the answer: numbers, texts and
// arrays, which JavaScript copies. There is one answer at a time, and the next call replaces it; after a failure, its
// only text is the message. Arguments are trusted as far as exact.js makes them; what files hold is not.

#include <algorithm>
#include <array>
#include <cinttypes>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "arrays.h"
#include "bundle.h"
#include "bundle_tables.h"
#include "container.h"
#include "entropy/workers.h"
#include "families/family.h"
#include "graph_weights.h"
#include "imports.h"
#include "latents.h"
#include "noise.h"
#include "pixels.h"
#include "plan.h"
#include "status.h"
#include "tiles.h"

namespace {

using rdeic::Result;
using rdeic::ValuePtr;

struct Answer {
  std::vector<double> numbers;
  std::vector<std::string> texts;
  std::vector<std::pair<std::string, ValuePtr>> arrays;
};

Answer& answer() {
  static Answer last;
  return last;
}

int failed(Result result, const char* message) {
  answer() = {};
  answer().texts.emplace_back(message);
  return static_cast<int>(result);
}

/// Runs the body of a C function; nothing gets past it.
int guarded(const std::function<void(Answer&)>& body) {
  answer() = {};
  try {
    body(answer());
    return static_cast<int>(Result::kOk);
  } catch (const rdeic::Error& error) {
    return failed(error.result(), error.what());
  } catch (const std::bad_alloc&) {
    return failed(Result::kOutOfMemory, "not enough memory");
  } catch (const std::exception& error) {
    return failed(Result::kInternal, error.what());
  }
}

/// A bundle, and what was loaded of it.
struct OpenBundle {
  rdeic::Bundle bundle;
  std::map<std::string, std::shared_ptr<const rdeic::entropy::Model>> models;  // by path

  const rdeic::Rate& rate(std::uint32_t index) const {
    if (index < bundle.rates.size()) return bundle.rates[index];
    rdeic::fail(Result::kInvalidArgument, "rate %" PRIu32 " is not one of bundle '%s', which has %zu", index,
                bundle.name.c_str(), bundle.rates.size());
  }
};

/// Limits as JavaScript has them: integers of up to 2^53 as doubles, in the order of rdeic_limits.
rdeic::Limits limits_from(const double* numbers) {
  constexpr double kMost = 9007199254740991;
  for (std::size_t i = 0; i < 5; ++i) {
    if (!(numbers[i] >= 0 && numbers[i] <= kMost))
      rdeic::fail(Result::kInvalidArgument, "a limit is %g; limits are integers from 0 to 2^53 - 1", numbers[i]);
  }
  rdeic::Limits limits;
  limits.max_pixels = static_cast<std::uint64_t>(numbers[0]);
  limits.max_file_bytes = static_cast<std::uint64_t>(numbers[1]);
  limits.max_metadata_bytes = static_cast<std::uint64_t>(numbers[2]);
  limits.max_memory_bytes = static_cast<std::uint64_t>(numbers[3]);
  limits.max_side_px = static_cast<std::uint32_t>(std::min(numbers[4], double{UINT32_MAX}));
  return limits;
}

rdeic::ModelId model_id_from(std::uint32_t number) {
  rdeic::ModelId id;
  for (std::size_t i = 0; i < id.size(); ++i) id[i] = static_cast<std::uint8_t>(number >> 8 * (id.size() - 1 - i));
  return id;
}

double number_of(const rdeic::ModelId& id) {
  double number = 0;
  for (const std::uint8_t byte : id) number = number * 256 + byte;
  return number;
}

/// Appends what the header and the sections of a file say.
void tell_info(const rdeic::File& file, Answer& to) {
  const rdeic::Header& header = file.header;
  to.numbers = {double(header.size.width),
                double(header.size.height),
                double(header.rate),
                number_of(header.model_id),
                double(file.checksum),
                double(file.z.size()),
                double(file.y.size()),
                double(file.metadata.icc.size()),
                double(file.metadata.exif.size()),
                double(file.missing_bytes)};
}

ValuePtr bytes_value(const std::vector<std::uint8_t>& bytes) {
  rdeic::Tensor<std::uint8_t> tensor({static_cast<std::int64_t>(bytes.size())});
  std::copy(bytes.begin(), bytes.end(), tensor.data());
  return to_value(std::move(tensor));
}

/// Appends rows under the role whose graph reads them, one array a row.
void tell_rows(const rdeic::RowsByRole& rows, Answer& to) {
  for (const auto& [role, of_role] : rows)
    for (const ValuePtr& row : of_role) to.arrays.emplace_back(role, row);
}

void tell_axis(const rdeic::tiles::Axis& axis, Answer& to) {
  for (const std::size_t number : {axis.length, axis.tile, axis.ramp, axis.starts.size()})
    to.numbers.push_back(static_cast<double>(number));
  for (const std::size_t start : axis.starts) to.numbers.push_back(static_cast<double>(start));
}

/// A graph that is described, and not run: JavaScript runs it.
class DescribedGraph final : public rdeic::backends::Graph {
 public:
  explicit DescribedGraph(const rdeic::GraphSpec& spec) : spec_(spec) {}

  const rdeic::GraphSpec& spec() const override { return spec_; }
  rdeic::Values run(const rdeic::Values&, rdeic::backends::Location) const override {
    rdeic::fail(Result::kInternal, "graph '%s' is run by JavaScript", rdeic::printable(spec_.id).c_str());
  }

 private:
  const rdeic::GraphSpec& spec_;
};

/// Gives a family the descriptions of a rate's graphs.
class Describer final : public rdeic::families::Loader {
 public:
  Describer(const rdeic::Bundle& bundle, const rdeic::Rate& rate) : bundle_(bundle), rate_(rate) {}

  std::shared_ptr<const rdeic::backends::Graph> graph(const std::string& role) const override {
    return std::make_shared<DescribedGraph>(bundle_.reference(rate_.graphs.at(role)));
  }
  ValuePtr step_row(const rdeic::Schedule& schedule, const std::string&, std::size_t) const override {
    rdeic::fail(Result::kInternal, "steps of schedule '%s' are run by JavaScript",
                rdeic::printable(schedule.name).c_str());
  }

 private:
  const rdeic::Bundle& bundle_;
  const rdeic::Rate& rate_;
};

/// A canvas, and the shape of the tiles that it takes.
struct OpenCanvas {
  rdeic::tiles::Tiling tiling;
  rdeic::TensorSpec spec;
  rdeic::tiles::Canvas canvas;
};

const rdeic::TensorSpec& output_of(const rdeic::Bundle& bundle, const char* graph, const char* name) {
  const auto forms = bundle.graphs.find(graph);
  const rdeic::TensorSpec* const spec =
      forms == bundle.graphs.end() ? nullptr : bundle.reference(forms->first).output(name);
  if (spec == nullptr)
    rdeic::fail(Result::kInvalidArgument, "bundle '%s' has no graph '%s' with an output '%s'", bundle.name.c_str(),
                rdeic::printable(graph).c_str(), rdeic::printable(name).c_str());
  return *spec;
}

}  // namespace

extern "C" {

const char* rdeic_version(void) { return RDEIC_VERSION; }

// ---- The answer -----------------------------------------------------------------------------------------------------

std::size_t rdeic_answer_numbers(void) { return answer().numbers.size(); }
const double* rdeic_answer_number(void) { return answer().numbers.data(); }
std::size_t rdeic_answer_texts(void) { return answer().texts.size(); }
const char* rdeic_answer_text(std::size_t index) { return answer().texts[index].c_str(); }
std::size_t rdeic_answer_arrays(void) { return answer().arrays.size(); }
const char* rdeic_answer_array_name(std::size_t index) { return answer().arrays[index].first.c_str(); }
const char* rdeic_answer_array_dtype(std::size_t index) {
  return rdeic::dtype_name(answer().arrays[index].second->dtype());
}
std::size_t rdeic_answer_array_rank(std::size_t index) { return answer().arrays[index].second->shape().size(); }
std::size_t rdeic_answer_array_side(std::size_t index, std::size_t axis) {
  return static_cast<std::size_t>(answer().arrays[index].second->shape()[axis]);
}
const std::byte* rdeic_answer_array_data(std::size_t index) { return answer().arrays[index].second->data(); }
void rdeic_answer_clear(void) { answer() = {}; }

// ---- Files ----------------------------------------------------------------------------------------------------------

/// Answers the default limits, in the order of `limits_from`.
int rdeic_default_limits(void) {
  return guarded([](Answer& to) {
    const rdeic::Limits limits;
    to.numbers = {double(limits.max_pixels), double(limits.max_file_bytes), double(limits.max_metadata_bytes),
                  double(limits.max_memory_bytes), double(limits.max_side_px)};
  });
}

/// Answers `tell_info`.
int rdeic_read_info(const std::uint8_t* data, std::size_t n_bytes, const double* limits, bool allow_partial) {
  return guarded([&](Answer& to) { tell_info(rdeic::parse({data, n_bytes}, limits_from(limits), allow_partial), to); });
}

// ---- Bundles --------------------------------------------------------------------------------------------------------

/// Opens the bundle of a bundle.json; `where` stands for its folder in messages. Sets `out` to null on failure.
int rdeic_bundle_open(const char* manifest, std::size_t n_bytes, const char* where, OpenBundle** out) {
  *out = nullptr;
  return guarded([&](Answer&) {
    auto bundle = std::make_unique<OpenBundle>(
        OpenBundle{rdeic::parse_bundle({manifest, n_bytes}, where, true, rdeic::families::table()), {}});
    *out = bundle.release();
  });
}

void rdeic_bundle_close(OpenBundle* bundle) { delete bundle; }

/// Answers the index of the rate that a file needs; `model_id` is a number of 32 bits.
int rdeic_bundle_rate_of(const OpenBundle* bundle, std::uint32_t model_id, std::uint32_t number) {
  return guarded(
      [&](Answer& to) { to.numbers = {double(bundle->bundle.rate_of(model_id_from(model_id), number).index)}; });
}

/// Checks what a decode of a file is asked for, before anything is loaded. Answers the index of the file's rate; text:
/// the schedule, none for a preview and for a family without steps.
int rdeic_bundle_plan(const OpenBundle* bundle, std::uint32_t width, std::uint32_t height, std::uint32_t model_id,
                      std::uint32_t number, bool preview, double sharpness, std::uint32_t steps, const double* limits) {
  return guarded([&](Answer& to) {
    const rdeic::PlanOptions options{preview, sharpness, steps};
    rdeic::check_options(options);
    const rdeic::Bundle& from = bundle->bundle;
    const rdeic::Rate& rate = from.rate_of(model_id_from(model_id), number);
    const Describer load(from, rate);
    const rdeic::Plan plan = rdeic::plan_decode(from, rate, load, {height, width}, options, limits_from(limits));
    to.numbers = {double(rate.index)};
    if (plan.schedule != nullptr) to.texts = {plan.schedule->name};
  });
}

/// Loads a rate's entropy model from the content of its file, and keeps it.
int rdeic_bundle_load_entropy(OpenBundle* bundle, std::uint32_t rate_index, const std::uint8_t* npz,
                              std::size_t n_bytes) {
  return guarded([&](Answer&) {
    const rdeic::Rate& rate = bundle->rate(rate_index);
    const std::string path = rate.entropy.path.string();
    const auto arrays = rdeic::Arrays::read({npz, n_bytes}, path, "entropy model");
    bundle->models[path] = rdeic::model_of(bundle->bundle, rate, arrays);
  });
}

/// Answers `tell_info` and then the index of the rate, complete slices and slices; arrays: the tensors that the file
/// holds, and, if there are any, "icc" and "exif" after them, whose number is the last.
int rdeic_bundle_decode_latents(const OpenBundle* bundle, const std::uint8_t* data, std::size_t n_bytes,
                                const double* limits, bool allow_partial) {
  return guarded([&](Answer& to) {
    const rdeic::Bundle& from = bundle->bundle;
    const rdeic::File file = rdeic::parse({data, n_bytes}, limits_from(limits), allow_partial);
    const rdeic::Rate& rate = from.rate_of(file.header.model_id, file.header.rate);
    const auto model = bundle->models.find(rate.entropy.path.string());
    if (model == bundle->models.end())
      rdeic::fail(Result::kInvalidArgument,
                  "the entropy model of rate %" PRIu32 " is not loaded: call loadEntropy first", rate.index);
    const rdeic::Progress go_on = [](rdeic::Part, unsigned, unsigned) { return rdeic_js_progress(); };
    rdeic::ProgressSteps progress(go_on, 1);
    progress.begin(rdeic::Part::kEntropy);
    rdeic::entropy::Workers workers(1);
    rdeic::Latents latents = rdeic::decode_latents(from, rate, *model->second, file, workers, progress);
    tell_info(file, to);
    for (auto& [name, tensor] : latents.tensors) to.arrays.emplace_back(name, std::move(tensor));
    const std::size_t n_tensors = to.arrays.size();
    if (!file.metadata.icc.empty()) to.arrays.emplace_back("icc", bytes_value(file.metadata.icc));
    if (!file.metadata.exif.empty()) to.arrays.emplace_back("exif", bytes_value(file.metadata.exif));
    for (const std::size_t number : {std::size_t{latents.rate}, std::size_t{latents.file.complete_slices},
                                     std::size_t{latents.file.n_slices}, to.arrays.size() - n_tensors})
      to.numbers.push_back(static_cast<double>(number));
  });
}

/// Answers the rows of a step table, from the content of its file.
int rdeic_bundle_step_rows(const OpenBundle* bundle, std::uint32_t rate_index, const char* schedule_name,
                           const std::uint8_t* npz, std::size_t n_bytes) {
  return guarded([&](Answer& to) {
    const rdeic::Rate& rate = bundle->rate(rate_index);
    const std::string path = rate.step_table(schedule_name).path.string();
    const rdeic::Schedule& schedule = bundle->bundle.schedules.at(schedule_name);
    tell_rows(rdeic::step_rows_of(bundle->bundle, rate, schedule, rdeic::Arrays::read({npz, n_bytes}, path)), to);
  });
}

/// Answers the rows of all levels, from the content of their file.
int rdeic_bundle_level_rows(const OpenBundle* bundle, const std::uint8_t* npz, std::size_t n_bytes) {
  return guarded([&](Answer& to) {
    const rdeic::Bundle& from = bundle->bundle;
    if (!from.levels) rdeic::fail(Result::kInvalidArgument, "bundle '%s' has no levels", from.name.c_str());
    const auto arrays = rdeic::Arrays::read({npz, n_bytes}, from.levels->file.path.string());
    tell_rows(rdeic::level_rows_of(from, from.rates[0], arrays), to);
  });
}

/// Checks a graph's file before another library sees it. Answers, for each weight that lies in another file, where the
/// graph says and which listed file that is.
int rdeic_bundle_check_graph(const OpenBundle* bundle, const char* graph, const char* form, const std::uint8_t* onnx,
                             std::size_t n_bytes) {
  return guarded([&](Answer& to) {
    const rdeic::Bundle& from = bundle->bundle;
    const auto forms = from.graphs.find(graph);
    const bool is_there = forms != from.graphs.end() && forms->second.contains(form);
    if (!is_there)
      rdeic::fail(Result::kInvalidArgument, "bundle '%s' has no graph '%s' in the form '%s'", from.name.c_str(),
                  rdeic::printable(graph).c_str(), rdeic::printable(form).c_str());
    for (const rdeic::LocatedWeight& weight : rdeic::locate_weights(forms->second.at(form), {onnx, n_bytes})) {
      const auto listed = std::find_if(from.files->begin(), from.files->end(),
                                       [&](const auto& file) { return &file.second == weight.file; });
      to.texts.push_back(weight.about.location);
      to.texts.push_back(listed->first);
    }
  });
}

// ---- Noise and tiles ------------------------------------------------------------------------------------------------

/// Answers one array, float32 of these sides.
int rdeic_noise(const std::uint32_t* sides, std::size_t rank, std::uint32_t seed_low, std::uint32_t seed_high,
                std::uint32_t draw) {
  return guarded([&](Answer& to) {
    const rdeic::Shape shape(sides, sides + rank);
    const std::uint64_t seed = std::uint64_t{seed_high} << 32 | seed_low;
    to.arrays.emplace_back("noise", to_value(rdeic::gaussian(shape, seed, draw)));
  });
}

/// Answers the tiles of an image that is padded to multiples of `unit_px`: of each axis, rows first, length, tile, ramp
/// and starts, with their number before them.
int rdeic_tiles(std::uint32_t width, std::uint32_t height, std::uint32_t tile_px, std::uint32_t unit_px) {
  return guarded([&](Answer& to) {
    const rdeic::tiles::Tiling tiling =
        rdeic::tiles::tiles_of(rdeic::padded_size({height, width}, unit_px), tile_px, unit_px);
    tell_axis(tiling.rows, to);
    tell_axis(tiling.columns, to);
  });
}

/// Makes a canvas for an output of a graph, over an image of this size. Sets `out` to null on failure.
int rdeic_canvas_create(const OpenBundle* bundle, const char* graph, const char* output, std::uint32_t width,
                        std::uint32_t height, std::uint32_t tile_px, OpenCanvas** out) {
  *out = nullptr;
  return guarded([&](Answer&) {
    const std::uint32_t unit_px = bundle->bundle.size_multiple_px;
    const rdeic::tiles::Tiling tiling =
        rdeic::tiles::tiles_of(rdeic::padded_size({height, width}, unit_px), tile_px, unit_px);
    const rdeic::TensorSpec& spec = output_of(bundle->bundle, graph, output);
    *out = std::make_unique<OpenCanvas>(OpenCanvas{tiling, spec, {tiling, spec}}).release();
  });
}

void rdeic_canvas_destroy(OpenCanvas* canvas) { delete canvas; }

/// Adds what was made of a tile; tiles come in the order of rows, and of columns in each.
int rdeic_canvas_add(OpenCanvas* canvas, std::uint32_t row, std::uint32_t column, const std::byte* data,
                     std::size_t n_bytes) {
  return guarded([&](Answer&) {
    const auto unit_px = static_cast<std::int64_t>(canvas->tiling.unit_px);
    const rdeic::Sizes sizes{1, static_cast<std::int64_t>(canvas->tiling.rows.tile) / unit_px,
                             static_cast<std::int64_t>(canvas->tiling.columns.tile) / unit_px};
    auto piece = std::make_shared<rdeic::HostValue>(canvas->spec.dtype, canvas->spec.resolve(sizes));
    const std::size_t wanted = rdeic::count_of(piece->shape()) * rdeic::dtype_bytes(piece->dtype());
    if (n_bytes != wanted)
      rdeic::fail(Result::kInvalidArgument, "a tile of %s has %zu bytes, should have %zu",
                  rdeic::printable(canvas->spec.name).c_str(), n_bytes, wanted);
    std::copy_n(data, n_bytes, piece->data());
    canvas->canvas.add({row, column}, piece);
  });
}

/// Answers the whole, once all tiles were added.
int rdeic_canvas_take(OpenCanvas* canvas) {
  return guarded([&](Answer& to) { to.arrays.emplace_back(canvas->spec.name, canvas->canvas.take()); });
}

}  // extern "C"
