#include "families/diffo.h"

// DiffO: VQ indices are coded; one step makes z_0 of their base and noise.
//
//   decode    vq_indices - synthesis -> z_c, hint     z_c, noise - start -> z_N
//             z_N, hint - unet_step -> z_0 - vae_decoder -> image
//   preview   vq_indices - synthesis -> z_c - vae_decoder -> image
//
// How much noise there is is the rate's abar_start, which the UNet was trained with. Its timestep is folded into its
// graph, and so is the update: the schedule has one step, and that gives the network's output as it is.

#include <utility>

#include "noise.h"
#include "status.h"

namespace rdeic::families {
namespace {

void check(const Schedule& schedule) {
  const std::vector<double> none = {0.0}, whole = {1.0};
  if (schedule.a == none && schedule.b == whole && schedule.c == none) return;
  fail(Result::kBundleCorrupt,
       "schedule '%s': a, b, c are of %zu steps and %g, %g, %g in the first; family '%s' decodes in one step, with 0, "
       "1, 0",
       printable(schedule.name).c_str(), schedule.n_steps(), schedule.a[0], schedule.b[0], schedule.c[0],
       diffo().name().c_str());
}

class Preview final : public StageList {
 public:
  explicit Preview(const Loader& load)
      : synthesis_(graph_stage(Part::kSynthesis, load, "synthesis", {"z_c", "hint"})),
        vae_decoder_(graph_stage(Part::kVae, load, "vae_decoder", {"image"})) {
    vae_decoder_.finite = "z_0";
  }

  std::vector<const Stage*> stages() const override { return {&synthesis_, &vae_decoder_}; }

  /// Returns the image of z_c, the decoded base.
  ValuePtr run(Placement& at, const Given& given) const override {
    const ValuePtr z_c = synthesise(at, given)[0];
    return paint(at, z_c);
  }

  /// Returns z_c and hint.
  std::vector<ValuePtr> synthesise(Placement& at, const Given& given) const {
    return at.each(synthesis_, {{"vq_indices", given.tensors.at("vq_indices")}});
  }

  ValuePtr paint(Placement& at, const ValuePtr& z_0) const { return at.each(vae_decoder_, {{"z_0", z_0}})[0]; }

 private:
  Stage synthesis_, vae_decoder_;
};

class Decoder final : public StageList {
 public:
  Decoder(const Loader& load, const Schedule& schedule)
      : ends_(load),
        unet_step_(graph_stage(Part::kDenoise, load, "unet_step", {"z_0"})),
        start_(start_stage(schedule, unet_step_.inputs.at("z_n"))) {}

  std::vector<const Stage*> stages() const override {
    const auto ends = ends_.stages();
    return {ends.front(), &start_, &unet_step_, ends.back()};
  }

  /// Returns the image that one step makes of z_c.
  ValuePtr run(Placement& at, const Given& given) const override {
    std::vector<ValuePtr> features = ends_.synthesise(at, given);
    ValuePtr z = std::move(features[0]), hint = std::move(features[1]);
    const ValuePtr noise = to_value(gaussian(unet_step_.inputs.at("z_n").resolve(given.sizes), given.seed, 0));
    z = at.each(start_, {{"z_c", z}, {"noise", noise}})[0];
    z = at.each(unet_step_, {{"z_n", z}, {"hint", hint}})[0];
    hint.reset();
    return ends_.paint(at, z);
  }

 private:
  Preview ends_;
  Stage unet_step_, start_;
};

class Diffo final : public Family {
 public:
  const std::string& name() const override { return name_; }
  std::span<const Role> roles() const override { return roles_; }
  const Names& alike() const override { return alike_; }
  bool has_steps() const override { return true; }
  const std::map<std::string, std::string>& latents() const override { return latents_; }

  std::unique_ptr<const StageList> decoder(const Loader& load, const Schedule* schedule) const override {
    check(*schedule);
    return std::make_unique<Decoder>(load, *schedule);
  }
  std::unique_ptr<const StageList> preview(const Loader& load) const override {
    return std::make_unique<Preview>(load);
  }

 private:
  const std::string name_ = "diffo";
  const std::vector<Role> roles_ = {
      {.name = "analysis", .inputs = {"image"}, .outputs = {"vq_indices"}, .encodes = true},
      {.name = "synthesis", .inputs = {"vq_indices"}, .outputs = {"z_c", "hint"}},
      {.name = "unet_step", .inputs = {"z_n", "hint"}, .outputs = {"z_0"}},
      {.name = "vae_decoder", .inputs = {"z_0"}, .outputs = {"image"}},
  };
  const Names alike_ = {"z_c", "z_n", "z_0"};
  const std::map<std::string, std::string> latents_ = {{"vq_indices", "synthesis"}};
};

}  // namespace

const Family& diffo() {
  static const Diffo family;
  return family;
}

}  // namespace rdeic::families
