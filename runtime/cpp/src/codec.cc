#include "codec.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <thread>
#include <utility>

#include "backends/ort.h"
#include "denoise.h"
#include "entropy/latents.h"
#include "loading.h"
#include "memory_estimate.h"
#include "noise.h"
#include "rows.h"
#include "sha256.h"
#include "status.h"
#include "synthesis.h"
#include "tiling.h"
#include "vae.h"

namespace rdeic {
namespace {

using backends::Graph;
using tiling::Canvas;
using tiling::Layout;
using tiling::Piece;
using tiling::Tile;
using tiling::Tiles;

// Pixels along a side for one position of the latent, of y, and of the hyper latent (docs/format.md, "Model and rate").
constexpr std::uint32_t kLatentPx = 8;
constexpr std::uint32_t kYPx = 16;
constexpr std::uint32_t kHyperPx = 64;
// Layers of entropy decoding are short: with more threads they take no less time.
constexpr unsigned kMaxEntropyThreads = 8;
constexpr const char* kDecodingRoles[] = {"synthesis", "control", "unet_step", "vae_decoder"};

unsigned entropy_threads(unsigned asked) {
  const unsigned threads = asked > 0 ? asked : std::thread::hardware_concurrency();
  return std::clamp(threads, 1U, kMaxEntropyThreads);
}

void check_options(const DecodeOptions& options) {
  if (!std::isfinite(options.sharpness) || options.sharpness < 0) {
    fail(Result::kInvalidArgument, "sharpness is %g; it must be a finite number, 0 or more", options.sharpness);
  }
}

/// Counts the parts of one decode, and asks before each whether to go on.
class Parts {
 public:
  Parts(const Progress& progress, unsigned n_steps) : progress_(progress), total_(kWithoutSteps + n_steps) {}

  void begin(Stage stage) {
    const unsigned done = done_++;
    if (progress_ && !progress_(stage, done, total_)) fail(Result::kCancelled, "cancelled by the caller");
  }

  /// Asks whether to go on with a further piece of a part; `first`: it is the one that `begin` asked for.
  void go_on(Stage stage, bool first) {
    if (first) return;
    --done_;
    begin(stage);
  }

 private:
  static constexpr unsigned kWithoutSteps = 3;  // entropy, synthesis, vae

  const Progress& progress_;
  unsigned total_;
  unsigned done_ = 0;
};

}  // namespace

struct Codec::State {
  using LevelRows = std::vector<Tensor<float>>;

  State(std::shared_ptr<const Bundle> of, CodecOptions with)
      : bundle(std::move(of)),
        options(std::move(with)),
        backend(options.backend, options.threads),
        workers(entropy_threads(options.threads)) {}

  const GraphSpec& form_of(const Rate& rate, const char* role) const {
    return backend.choose_form(*bundle, bundle->graph_of(rate, role), options.precision);
  }

  /// Checks that some rate has all its graphs in the precision that was asked for.
  void check_precision() const {
    std::exception_ptr failure;
    for (const Rate& rate : bundle->rates) {
      try {
        for (const char* role : kDecodingRoles) form_of(rate, role);
        return;
      } catch (const Error&) {
        if (!failure) failure = std::current_exception();
      }
    }
    std::rethrow_exception(failure);
  }

  std::function<std::shared_ptr<const Graph>()> loader_of(const GraphSpec& spec) const {
    return [this, &spec]() -> std::shared_ptr<const Graph> { return backend.load(spec); };
  }

  /// Begins to load what a decode needs, while other work is done: unet_step, which takes longest, beside the others,
  /// which come in the order that they are needed in.
  void begin_loading(const Rate& rate, bool preview) {
    const auto begin = [&](const char* role, LoadOnce<Graph>::Future after) {
      const GraphSpec& spec = form_of(rate, role);
      return graphs.begin(spec.id, loader_of(spec), std::move(after));
    };
    if (!preview) begin("unet_step", {});
    LoadOnce<Graph>::Future last = begin("synthesis", {});
    if (!preview) last = begin("control", last);
    begin("vae_decoder", last);
  }

  std::shared_ptr<const Graph> graph(const Rate& rate, const char* role) {
    const GraphSpec& spec = form_of(rate, role);
    return graphs.get(spec.id, loader_of(spec));
  }

  std::shared_ptr<const entropy::Model> model(const Rate& rate) {
    return models.get(rate.entropy.path.string(), [this, &rate] {
      auto model = std::make_shared<const entropy::Model>(Arrays::read(rate.entropy, "entropy model"));
      for (const Rate& other : bundle->rates) {
        if (other.entropy.path != rate.entropy.path || other.model_id == model->id()) continue;
        fail(Result::kBundleCorrupt,
             "%s: this is model %s, bundle.json says %s. Get the bundle again, or export it again",
             rate.entropy.path.c_str(), hex(model->id()).c_str(), hex(other.model_id).c_str());
      }
      return model;
    });
  }

  denoise::Denoiser denoiser(const Rate& rate, const Schedule& schedule) {
    auto control = graph(rate, "control"), unet_step = graph(rate, "unet_step");
    const auto rows = step_rows.get(std::to_string(rate.index) + " " + schedule.name, [&] {
      return std::make_shared<const denoise::StepRows>(denoise::step_rows(
          Arrays::read(rate.step_table(schedule.name)), schedule.n_steps(), control->spec(), unet_step->spec()));
    });
    return {std::move(control), std::move(unet_step), schedule, rows};
  }

  /// Returns what the synthesis graph reads at each level, [1, D]; nullptr where the bundle has none.
  std::shared_ptr<const LevelRows> level_rows_of_synthesis() {
    if (!bundle->levels) return nullptr;
    return level_rows.get("synthesis", [this] {
      const Levels& levels = *bundle->levels;
      return std::make_shared<const LevelRows>(rows_of(Arrays::read(levels.file), "synthesis", levels.count,
                                                       bundle->graph_of(bundle->rates[0], "synthesis"), kLevelInput));
    });
  }

  const std::shared_ptr<const Bundle> bundle;
  const CodecOptions options;
  const backends::Backend backend;
  entropy::Workers workers;
  LoadOnce<entropy::Model> models;
  LoadOnce<denoise::StepRows> step_rows;
  LoadOnce<LevelRows> level_rows;
  LoadOnce<Graph> graphs;  // last: threads that load graphs use what is above until this is gone

  Latents read_latents(const File& file, Parts& parts);
  void reconstruct(const Latents& latents, PixelRows rows, const DecodeOptions& asked, Parts& parts);
};

Codec::Codec(std::shared_ptr<const Bundle> bundle, CodecOptions options)
    : state_(std::make_unique<State>(std::move(bundle), std::move(options))) {
  tiling::tiles_of({1, 1}, state_->options.tile_px, state_->bundle->size_multiple_px);  // checks tile_px
  state_->check_precision();
}

Codec::~Codec() = default;

const Bundle& Codec::bundle() const { return *state_->bundle; }
const Limits& Codec::limits() const { return state_->options.limits; }

Decoded Codec::decode(std::span<const std::uint8_t> data, const Place& place, const DecodeOptions& options) {
  check_options(options);
  const Bundle& bundle = *state_->bundle;
  File file = parse(data, state_->options.limits, options.allow_partial);
  const Rate& rate = bundle.rate_of(file.header.model_id, file.header.rate);
  const Schedule& schedule = bundle.choose_schedule(rate, options.steps);
  check_memory(bundle, rate, file.header.size, state_->options.limits);
  const PixelRows rows = place(file.header.size);
  Parts parts(options.progress, options.preview ? 0 : static_cast<unsigned>(schedule.n_steps()));
  state_->begin_loading(rate, options.preview);
  Latents latents = state_->read_latents(file, parts);
  state_->reconstruct(latents, rows, options, parts);
  parts.begin(Stage::kDone);
  latents.file.metadata = std::move(file.metadata);
  return std::move(latents.file);
}

Latents Codec::read_latents(std::span<const std::uint8_t> data, bool allow_partial) {
  File file = parse(data, state_->options.limits, allow_partial);
  const Progress none;
  Parts parts(none, 0);
  Latents latents = state_->read_latents(file, parts);
  latents.file.metadata = std::move(file.metadata);
  return latents;
}

void Codec::prepare(std::uint32_t rate_index, bool preview) {
  if (rate_index >= state_->bundle->rates.size()) {
    fail(Result::kInvalidArgument, "rate is %u; the bundle has %zu", rate_index, state_->bundle->rates.size());
  }
  const Rate& rate = state_->bundle->rates[rate_index];
  state_->begin_loading(rate, preview);
  state_->model(rate);
  state_->graph(rate, "synthesis");
  state_->level_rows_of_synthesis();
  state_->graph(rate, "vae_decoder");
  if (!preview) state_->denoiser(rate, state_->bundle->choose_schedule(rate, 0));
}

Latents Codec::State::read_latents(const File& file, Parts& parts) {
  parts.begin(Stage::kEntropy);
  const Rate& rate = bundle->rate_of(file.header.model_id, file.header.rate);
  const Size padded = padded_size(file.header.size, bundle->size_multiple_px);
  const entropy::Machine machine{entropy::available_kernels().front(), workers};
  entropy::DecodedLatents decoded =
      entropy::decode_latents(machine, *model(rate), file, padded.height / kHyperPx, padded.width / kHyperPx,
                              [&](std::size_t slice) { parts.go_on(Stage::kEntropy, slice == 0); });
  const auto n_slices = static_cast<std::uint32_t>(model(rate)->slices().size());
  return {{file.header.size, {}, file.missing_bytes, decoded.complete_slices, n_slices},
          rate.index,
          file.header.rate,
          std::move(decoded.y_hat),
          file.checksum};
}

void Codec::State::reconstruct(const Latents& latents, PixelRows rows, const DecodeOptions& asked, Parts& parts) {
  const Rate& rate = bundle->rates[latents.rate];
  const Schedule& schedule = bundle->choose_schedule(rate, asked.steps);
  const auto channels = static_cast<std::int64_t>(bundle->latent_channels);
  const Tiles tiles = tiling::tiles_of(padded_size(latents.file.size, bundle->size_multiple_px), options.tile_px,
                                       bundle->size_multiple_px);

  parts.begin(Stage::kSynthesis);
  const auto level_rows = level_rows_of_synthesis();
  const Tensor<float>* const level = level_rows ? &level_rows->at(latents.level) : nullptr;
  Canvas<float> z_c_canvas(tiles, kLatentPx, Layout::kNchw), hint_canvas(tiles, kLatentPx, Layout::kNchw);
  tiling::for_each(tiles, [&](Tile tile) {
    parts.go_on(Stage::kSynthesis, tile.row + tile.column == 0);
    const Piece y_hat(latents.y_hat, tiles, tile, kYPx);
    synthesis::Features features = synthesis::run(*graph(rate, "synthesis"), y_hat.get(), level, channels);
    z_c_canvas.add(tile, std::move(features.z_c));
    hint_canvas.add(tile, std::move(features.hint));
  });
  Tensor<float> z = z_c_canvas.take();

  if (!asked.preview) {
    const Tensor<float> hint = hint_canvas.take();
    const std::uint64_t seed = asked.seed.value_or(latents.checksum);
    z = denoise::start(schedule, z, gaussian(z.shape(), seed, 0));
    const denoise::Denoiser denoiser = this->denoiser(rate, schedule);
    for (std::size_t step = 0; step < schedule.n_steps(); ++step) {
      parts.begin(Stage::kDenoise);
      // Of a step that adds none, zeros are as good as noise.
      const Tensor<float> noise = schedule.c[step] == 0 ? zeros_like(z) : gaussian(z.shape(), seed, step + 1);
      Canvas<float> next(tiles, kLatentPx, Layout::kNchw);
      tiling::for_each(tiles, [&](Tile tile) {
        parts.go_on(Stage::kDenoise, tile.row + tile.column == 0);
        const Piece z_n(z, tiles, tile, kLatentPx), seen(hint, tiles, tile, kLatentPx);
        const Piece added(noise, tiles, tile, kLatentPx);
        next.add(tile, denoise::run_step(denoiser, step, z_n.get(), seen.get(), added.get(), asked.sharpness));
      });
      z = next.take();
    }
  }

  // The VAE would make a picture of these as of anything else.
  if (!std::ranges::all_of(z.values(), [](float value) { return std::isfinite(value); })) {
    fail(Result::kBundleCorrupt,
         "denoising gave values that are not finite: the bundle's weights or its schedule are of no use, or the "
         "sharpness that was asked for is out of all proportion");
  }
  parts.begin(Stage::kVae);
  Canvas<std::uint8_t> picture(tiles, 1, Layout::kNhwc);
  tiling::for_each(tiles, [&](Tile tile) {
    parts.go_on(Stage::kVae, tile.row + tile.column == 0);
    const Piece z_0(z, tiles, tile, kLatentPx);
    picture.add(tile, vae::decode(*graph(rate, "vae_decoder"), z_0.get()));
  });
  crop(picture.take(), latents.file.size, rows);
}

}  // namespace rdeic
