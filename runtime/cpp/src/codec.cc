#include "codec.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <string>
#include <thread>
#include <utility>

#include "backends/select.h"
#include "entropy/workers.h"
#include "families/family.h"
#include "loading.h"
#include "placement.h"
#include "plan.h"
#include "status.h"
#include "tiles.h"

namespace rdeic {
namespace {

using families::StageList;

// Layers of entropy decoding are short: with more threads they take no less time.
constexpr unsigned kMaxEntropyThreads = 8;

unsigned entropy_threads(unsigned asked) {
  const unsigned threads = asked > 0 ? asked : std::thread::hardware_concurrency();
  return std::clamp(threads, 1U, kMaxEntropyThreads);
}

/// Returns how many parts progress is told of: entropy decoding, and those of the stages.
unsigned parts_of(const StageList& list) {
  const auto stages = list.stages();
  return 1U + static_cast<unsigned>(std::ranges::count_if(stages, [](const Stage* s) { return s->part.has_value(); }));
}

}  // namespace

struct Codec::State {
  State(std::shared_ptr<const Bundle> bundle, CodecOptions with, CodecParts parts)
      : options(std::move(with)),
        workers(entropy_threads(options.threads)),
        loaded(std::move(bundle), std::move(parts.backend), options.precision, parts.entropy_kinds) {
    tiles::tiles_of({1, 1}, options.tile_px, loaded.bundle().size_multiple_px);  // checks tile_px
  }

  const Bundle& bundle() const { return loaded.bundle(); }

  Size padded(Size size) const { return padded_size(size, bundle().size_multiple_px); }

  Latents read_latents(const File& file, ProgressSteps& progress);

  bool is_of_this_process() const { return owner == getpid(); }

  const pid_t owner = getpid();
  State* kept_before = nullptr;
  const CodecOptions options;
  entropy::Workers workers;
  Loaded loaded;
};

Codec::Codec(std::shared_ptr<const Bundle> bundle, const CodecOptions& options)
    : Codec(std::move(bundle), options, {.backend = backends::open(options.backend, options.threads)}) {}

Codec::Codec(std::shared_ptr<const Bundle> bundle, CodecOptions options, CodecParts parts)
    : state_(std::make_unique<State>(std::move(bundle), std::move(options), std::move(parts))) {}

Codec::~Codec() {
  if (!state_ || state_->is_of_this_process()) return;
  // After fork() there are none of the threads that the state's end would wait for. What is kept stays reachable, for
  // those who look for leaks.
  static std::atomic<State*> kept;
  State* const state = state_.release();
  state->kept_before = kept.exchange(state);
}

void Codec::check_process() const {
  if (state_->is_of_this_process()) return;
  fail(
      Result::kBackend,
      "this decoder was made in another process, before fork(), and cannot run here. Create one in each process, after "
      "it has started");
}

const Bundle& Codec::bundle() const { return state_->bundle(); }
const Limits& Codec::limits() const { return state_->options.limits; }

Decoded Codec::decode(std::span<const std::uint8_t> data, const Place& place, const DecodeOptions& options) {
  check_process();
  const PlanOptions planned{options.preview, options.sharpness, options.steps};
  check_options(planned);
  File file = parse(data, limits(), options.allow_partial);
  const Size size = file.header.size;
  const Rate& rate = bundle().rate_of(file.header.model_id, file.header.rate);
  const RateLoader loader(state_->loaded, rate);
  const Plan plan = plan_decode(bundle(), rate, loader, size, planned, limits());
  const PixelRows rows = place(size);

  ProgressSteps progress(options.progress, parts_of(*plan.list));
  state_->loaded.begin(*plan.list);
  Latents latents = state_->read_latents(file, progress);
  families::Given given{std::move(latents.tensors), sizes_of(bundle(), size), options.seed.value_or(latents.checksum),
                        options.sharpness};
  given.tensors.merge(state_->loaded.level_rows(rate, latents.level));
  const tiles::Tiling tiling =
      tiles::tiles_of(state_->padded(size), state_->options.tile_px, bundle().size_multiple_px);
  if (tiling.is_single()) {
    Whole at(progress);
    crop(*plan.list->run(at, given), size, rows);
  } else {
    Tiled at(tiling, progress);
    crop(*plan.list->run(at, given), size, rows);
  }
  progress.begin(Part::kDone);
  latents.file.metadata = std::move(file.metadata);
  return std::move(latents.file);
}

Latents Codec::read_latents(std::span<const std::uint8_t> data, bool allow_partial) {
  check_process();
  File file = parse(data, limits(), allow_partial);
  const Progress none;
  ProgressSteps progress(none, 1);
  Latents latents = state_->read_latents(file, progress);
  latents.file.metadata = std::move(file.metadata);
  return latents;
}

void Codec::prepare(std::uint32_t rate_index, bool preview) {
  check_process();
  if (rate_index >= bundle().rates.size()) {
    fail(Result::kInvalidArgument, "rate is %u; the bundle has %zu", rate_index, bundle().rates.size());
  }
  const Rate& rate = bundle().rates[rate_index];
  const Schedule* const schedule = preview ? nullptr : bundle().choose_schedule(rate, 0);
  const RateLoader loader(state_->loaded, rate);
  const auto list = preview ? bundle().family->preview(loader) : bundle().family->decoder(loader, schedule);
  state_->loaded.begin(*list);
  state_->loaded.model(rate);
  state_->loaded.level_rows(rate, rate.number);
  if (schedule != nullptr && !rate.step_tables.empty()) state_->loaded.step_rows(rate, *schedule);
  for (const Stage* const stage : list->stages()) {
    for (const auto& graph : stage->graphs) state_->loaded.graph(graph->spec());
  }
}

Latents Codec::State::read_latents(const File& file, ProgressSteps& progress) {
  progress.begin(Part::kEntropy);
  const Rate& rate = bundle().rate_of(file.header.model_id, file.header.rate);
  return decode_latents(bundle(), rate, *loaded.model(rate), file, workers, progress);
}

}  // namespace rdeic
