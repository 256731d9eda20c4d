#include "families/rdeic.h"

// RDEIC: y and VQ indices are coded; denoising starts from z_c plus slight noise.
//
//   decode    y_hat - synthesis -> z_c, hint          z_c, noise - start -> z_N
//             L x (z_n, hint - control -> residuals;  z_n, residuals - unet_step -> z_(n-1) = a z_n + b eps + c noise)
//             z_0 - vae_decoder -> image
//   preview   y_hat - synthesis -> z_c - vae_decoder -> image
//
// Guidance (Eq. 11) scales how far a step moves away from what the frozen denoiser does on its own, which is unet_step
// with zero residuals. The update is linear in eps, so results are combined: z = s z_controlled + (1 - s) z_plain.

#include <algorithm>
#include <array>
#include <initializer_list>
#include <utility>

#include "noise.h"

namespace rdeic::families {
namespace {

using backends::Graph;
using backends::Location;
using backends::run_checked;

/// Returns numbers as float32 [N].
ValuePtr row_of(std::initializer_list<double> numbers) {
  Tensor<float> row({static_cast<std::int64_t>(numbers.size())});
  std::transform(numbers.begin(), numbers.end(), row.data(), [](double number) { return static_cast<float>(number); });
  return to_value(std::move(row));
}

/// One step, z_n -> z_(n-1).
class Step {
 public:
  Step(const Loader& load, const Schedule& schedule, std::size_t number)
      : load_(load), schedule_(schedule), number_(number) {}

  Stage stage() const {
    Stage stage{.part = Part::kDenoise, .graphs = {control_, unet_step_}};
    for (const auto& graph : stage.graphs) {
      for (const TensorSpec& input : graph->spec().inputs) stage.inputs[input.name] = input;
    }
    stage.inputs[kGuidance] = {kGuidance, DType::kFloat32, {Dim{.factor = 2}}};
    stage.outputs = {*unet_step_->spec().output("z_prev")};
    stage.run = [step = *this](const Values& inputs) { return std::vector{step.run(inputs)}; };
    return stage;
  }

  static constexpr const char* kGuidance = "guidance";  // lambda_s and 1 - lambda_s, where that is not 1

 private:
  ValuePtr run(const Values& inputs) const {
    const ValuePtr& z_n = inputs.at("z_n");
    const Values residuals = run_checked(
        *control_, {{"z_n", z_n}, {"hint", inputs.at("hint")}, {"step", load_.step_row(schedule_, "control", number_)}},
        Location::kDevice);
    const ValuePtr noise = value_or_null(inputs, "noise");
    const Values given = {{"z_n", z_n},
                          {"noise", noise ? noise : zeros_like(*z_n)},
                          {"step", load_.step_row(schedule_, "unet_step", number_)},
                          {"coefficients", row_of({schedule_.a[number_], schedule_.b[number_], schedule_.c[number_]})}};
    const auto predict = [&](Values all) {
      all.insert(given.begin(), given.end());
      return run_checked(*unet_step_, all, Location::kHost).at("z_prev");
    };
    ValuePtr controlled = predict(residuals);
    const ValuePtr guidance = value_or_null(inputs, kGuidance);
    if (!guidance) return controlled;
    Values none;
    for (const auto& [name, residual] : residuals) none.emplace(name, zeros_like(*residual));
    const auto weights = elements<float>(*guidance, kGuidance);
    return combine(*controlled, *predict(std::move(none)), {weights[0], weights[1]});
  }

  const Loader& load_;
  const Schedule& schedule_;
  std::size_t number_;
  std::shared_ptr<const Graph> control_ = load_.graph("control"), unet_step_ = load_.graph("unet_step");
};

/// What decoding begins and ends with, previews too.
struct Ends {
  explicit Ends(const Loader& load)
      : synthesis(graph_stage(Part::kSynthesis, load, "synthesis", {"z_c", "hint"})),
        vae_decoder(graph_stage(Part::kVae, load, "vae_decoder", {"image"})) {
    vae_decoder.finite = "z_0";
  }

  /// Returns z_c and hint.
  std::vector<ValuePtr> synthesise(Placement& at, const Given& given) const {
    return at.each(synthesis, {{"y_hat", given.tensors.at("y_hat")},
                               {kLevelInput, value_or_null(given.tensors, level_input("synthesis"))}});
  }

  Stage synthesis, vae_decoder;
};

class Preview final : public StageList {
 public:
  explicit Preview(const Loader& load) : ends_(load) {}

  std::vector<const Stage*> stages() const override { return {&ends_.synthesis, &ends_.vae_decoder}; }

  /// Returns the image of z_c, which is an estimate of z_0.
  ValuePtr run(Placement& at, const Given& given) const override {
    const ValuePtr z_c = ends_.synthesise(at, given)[0];
    return at.each(ends_.vae_decoder, {{"z_0", z_c}})[0];
  }

 private:
  Ends ends_;
};

class Decoder final : public StageList {
 public:
  Decoder(const Loader& load, const Schedule& schedule)
      : ends_(load), schedule_(schedule), start_(start_stage(schedule, ends_.vae_decoder.inputs.at("z_0"))) {
    for (std::size_t n = 0; n < schedule.n_steps(); ++n) steps_.push_back(Step(load, schedule, n).stage());
  }

  std::vector<const Stage*> stages() const override {
    std::vector<const Stage*> all = {&ends_.synthesis, &start_};
    for (const Stage& step : steps_) all.push_back(&step);
    all.push_back(&ends_.vae_decoder);
    return all;
  }

  /// Returns the image that L steps make of z_c.
  ValuePtr run(Placement& at, const Given& given) const override {
    std::vector<ValuePtr> features = ends_.synthesise(at, given);
    ValuePtr z = std::move(features[0]), hint = std::move(features[1]);
    z = at.each(start_, {{"z_c", z}, {"noise", noise(given, 0)}})[0];
    const double s = given.sharpness;
    const ValuePtr guidance = s == 1.0 ? nullptr : row_of({s, 1.0 - s});
    for (std::size_t n = 0; n < steps_.size(); ++n) {
      const ValuePtr drawn = schedule_.c[n] == 0 ? nullptr : noise(given, n + 1);
      z = at.each(steps_[n], {{"z_n", z}, {"hint", hint}, {"noise", drawn}, {Step::kGuidance, guidance}})[0];
    }
    hint.reset();
    return at.each(ends_.vae_decoder, {{"z_0", z}})[0];
  }

 private:
  /// Returns draw 0 for the start, and k + 1 for step k.
  ValuePtr noise(const Given& given, std::uint64_t draw) const {
    return to_value(gaussian(ends_.vae_decoder.inputs.at("z_0").resolve(given.sizes), given.seed, draw));
  }

  Ends ends_;
  const Schedule& schedule_;
  Stage start_;
  std::vector<Stage> steps_;
};

class Rdeic final : public Family {
 public:
  const std::string& name() const override { return name_; }
  std::span<const Role> roles() const override { return roles_; }
  const Names& alike() const override { return alike_; }
  bool has_steps() const override { return true; }
  const std::map<std::string, std::string>& latents() const override { return latents_; }

  std::unique_ptr<const StageList> decoder(const Loader& load, const Schedule* schedule) const override {
    return std::make_unique<Decoder>(load, *schedule);
  }
  std::unique_ptr<const StageList> preview(const Loader& load) const override {
    return std::make_unique<Preview>(load);
  }

 private:
  const std::string name_ = "rdeic";
  const std::vector<Role> roles_ = {
      {.name = "analysis", .inputs = {"image"}, .outputs = {"y", "vq_indices"}, .at_a_level = true, .encodes = true},
      {.name = "synthesis", .inputs = {"y_hat"}, .outputs = {"z_c", "hint"}, .at_a_level = true},
      {.name = "control", .inputs = {"z_n", "hint", "step"}, .outputs = {"residual_*"}},
      {.name = "unet_step", .inputs = {"z_n", "step", "coefficients", "noise", "residual_*"}, .outputs = {"z_prev"}},
      {.name = "vae_decoder", .inputs = {"z_0"}, .outputs = {"image"}},
  };
  const Names alike_ = {"z_c", "z_n", "noise", "z_prev", "z_0"};
  const std::map<std::string, std::string> latents_ = {{"y_hat", "synthesis"}};
};

}  // namespace

const Family& rdeic() {
  static const Rdeic family;
  return family;
}

}  // namespace rdeic::families
