#include "bundle.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <span>

#include "backends/backend.h"
#include "decoding_half.h"
#include "expect_error.h"
#include "families/family.h"
#include "temporary_folder.h"

namespace rdeic {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using testing::expect_error;
using testing::leave_out_encoding;
using testing::TemporaryFolder;

const fs::path kGolden = RDEIC_SOURCE_DIR "/tests/golden/v1/bundle";
const fs::path kGoldenLevels = RDEIC_SOURCE_DIR "/tests/golden/v1-levels/bundle";

/// A copy of the golden bundle that a test may spoil.
class BundleTest : public ::testing::Test {
 protected:
  explicit BundleTest(const fs::path& source = kGolden) {
    fs::copy(source, folder_, fs::copy_options::recursive);
    std::ifstream file(folder_ / "bundle.json");
    good_.assign(std::istreambuf_iterator<char>(file), {});
  }

  void write_manifest(const std::string& text) { std::ofstream(folder_ / "bundle.json", std::ios::binary) << text; }

  void change(const std::function<void(Json&)>& edit) {
    std::ifstream file(folder_ / "bundle.json");
    Json document = Json::parse(file);
    edit(document);
    write_manifest(document.dump());
  }

  /// Returns an input or output of a graph in a document.
  static Json& tensor(Json& document, const char* graph, const char* name) {
    for (const char* side : {"inputs", "outputs"})
      for (Json& spec : document["graphs"][graph][side])
        if (spec["name"] == name) return spec;
    throw std::logic_error("no such tensor");
  }

  void expect_corrupt(const std::string& words, bool verify = false) {
    expect_error(Result::kBundleCorrupt, words, [&] { read_bundle(folder_, verify); });
  }

  TemporaryFolder temporary_;
  fs::path folder_ = temporary_.path() / "bundle";
  std::string good_;  // bundle.json as it was
};

TEST_F(BundleTest, ReadsEveryField) {
  const Bundle bundle = read_bundle(folder_);
  EXPECT_EQ(bundle.folder, folder_);
  EXPECT_FALSE(bundle.name.empty() || bundle.licence.empty());
  EXPECT_EQ(bundle.family->name(), "rdeic");
  EXPECT_EQ(bundle.size_multiple_px, 64U);
  ASSERT_GE(bundle.rates.size(), 2U);
  for (const Rate& rate : bundle.rates) {
    for (const families::Role& role : bundle.family->roles())
      EXPECT_TRUE(fs::exists(bundle.reference(rate.graphs.at(role.name)).file.path));
    EXPECT_TRUE(fs::exists(rate.entropy.path));
    EXPECT_TRUE(fs::exists(rate.step_table(*rate.schedule).path));
    EXPECT_TRUE(rate.is_guided);
    EXPECT_GT(rate.lambda_r.value_or(0), 0);
    const Schedule& schedule = *bundle.choose_schedule(rate, 0);
    EXPECT_EQ(schedule.name, rate.schedule);
    EXPECT_EQ(schedule.a.size(), schedule.n_steps());
    EXPECT_EQ(&bundle.rate_of(rate.model_id, rate.index), &rate);
  }
  const GraphSpec& unet_step = bundle.reference(bundle.rates[0].graphs.at("unet_step"));
  ASSERT_NE(unet_step.input("z_n"), nullptr);
  EXPECT_EQ(unet_step.input("z_n")->description(), "float32 [batch, 4, 8*hz, 8*wz]");
  EXPECT_EQ(unet_step.output("z_prev")->description(), unet_step.input("z_n")->description());
  EXPECT_EQ(unet_step.input("none"), nullptr);
  EXPECT_EQ(unet_step.form, "fp32");
}

TEST_F(BundleTest, WhatIsOptionalMayBeLeftOut) {
  change([](Json& d) {
    for (Json& rate : d["rates"]) rate.erase("lambda_r");
    d["rates"][0]["guided"] = false;
    d["rates"][1]["guided"] = true;
    d["preferred"] = Json::object();
  });
  const Bundle bundle = read_bundle(folder_);
  EXPECT_FALSE(bundle.rates[0].lambda_r.has_value());
  EXPECT_FALSE(bundle.rates[0].is_guided);
  EXPECT_TRUE(bundle.rates[1].is_guided);
  EXPECT_NO_THROW(bundle.check_sharpness(bundle.rates[0], 1.0));
  expect_error(Result::kInvalidArgument, "cannot be guided", [&] { bundle.check_sharpness(bundle.rates[0], 2.0); });
}

TEST_F(BundleTest, DecodingHalfHasEveryRateWithoutTheGraphsThatEncode) {
  leave_out_encoding(folder_);
  const Bundle bundle = read_bundle(folder_), whole = read_bundle(kGolden);
  ASSERT_EQ(bundle.rates.size(), whole.rates.size());
  EXPECT_EQ(bundle.files->size() + 2, whole.files->size());
  for (const Rate& rate : whole.rates) {
    EXPECT_TRUE(bundle.has(rate.model_id, rate.number));
    EXPECT_FALSE(bundle.rates[rate.index].graphs.contains("analysis"));
    EXPECT_EQ(bundle.rates[rate.index].graphs.size() + 1, rate.graphs.size());
  }
}

TEST_F(BundleTest, RatesEncodeAllOrNone) {
  for (const int rate : {0, 1}) {
    write_manifest(good_);
    change([&](Json& d) { d["rates"][rate]["graphs"].erase("analysis"); });
    expect_corrupt("rate 1: some rates have the graphs that encode, and others have not");
  }
}

using Order = std::vector<std::string>;

TEST_F(BundleTest, FormsComeAsMeasuredAndThenByTheTable) {
  change([](Json& d) { d["preferred"] = {{"cpu", {"int8-cpu", "fp16"}}}; });
  const Bundle bundle = read_bundle(folder_);
  EXPECT_EQ(bundle.preference("cpu", "auto"), Order({"int8-cpu", "fp16", "fp32", "fp16-cuda", "int8"}));
  EXPECT_EQ(bundle.preference("cpu", "int8"), Order({"int8-cpu", "int8"}));
  EXPECT_EQ(bundle.preference("cpu", "fp16"), Order({"fp16", "fp16-cuda"}));
  EXPECT_EQ(bundle.preference("cpu", "fp32"), Order({"fp32"}));
  EXPECT_EQ(bundle.preference("other", "auto"), Order({"fp32", "fp16", "fp16-cuda", "int8", "int8-cpu"}));
}

/// A backend that runs nothing.
class Forms final : public backends::Backend {
 public:
  explicit Forms(std::vector<std::string_view> forms) : forms_(std::move(forms)) {}

  const std::string& name() const override { return name_; }
  std::span<const std::string_view> forms() const override { return forms_; }
  std::unique_ptr<const backends::Graph> load(const GraphSpec&) const override { return nullptr; }

 private:
  const std::string name_ = "cpu";
  std::vector<std::string_view> forms_;
};

TEST_F(BundleTest, ABackendTakesTheFirstFormThatItRunsAndTheBundleHas) {
  change([](Json& d) {
    d["preferred"] = {{"cpu", {"int8-cpu", "fp16"}}};
    d["graphs"]["control_r0"]["forms"] = {{"int8", "control_r0.onnx"}, {"fp16", "control_r0.onnx"}};
  });
  const Bundle bundle = read_bundle(folder_);
  const auto form = [&](const Forms& backend, const char* graph, const char* precision) {
    return backends::choose_form(backend, bundle, graph, precision).form;
  };
  const Forms all({std::begin(kForms), std::end(kForms)}), few({"fp32", "int8"});
  EXPECT_EQ(bundle.reference("control_r0").form, "fp16");
  EXPECT_EQ(form(all, "control_r0", "auto"), "fp16");
  EXPECT_EQ(form(few, "control_r0", "auto"), "int8");
  EXPECT_EQ(form(all, "control_r0", "int8"), "int8");
  EXPECT_EQ(form(all, "unet_step", "auto"), "fp32");
  expect_error(Result::kBackendUnavailable, "in fp16 and int8", [&] { form(all, "control_r0", "fp32"); });
  expect_error(Result::kBackendUnavailable, "'unet_step' in fp32", [&] { form(few, "unet_step", "int8"); });
  expect_error(Result::kInvalidArgument, "precision 'int8-cpu'", [&] { form(all, "unet_step", "int8-cpu"); });
}

TEST(Bundle, ReadsTheEmbeddedBundle) {
  const Bundle bundle = read_bundle(RDEIC_SOURCE_DIR "/engines/tiny-2");
  EXPECT_EQ(bundle.name, "tiny-2");
  ASSERT_GE(bundle.rates.size(), 2U);
  ASSERT_TRUE(bundle.levels.has_value());
  EXPECT_EQ(bundle.rates.back().number, bundle.levels->count - 1);
  for (const Rate& rate : bundle.rates) {
    EXPECT_EQ(rate.model_id, bundle.rates[0].model_id);
    EXPECT_EQ(bundle.choose_schedule(rate, 0)->n_steps(), 1U);
    EXPECT_EQ(&bundle.rate_of(rate.model_id, rate.number), &rate);
  }
}

TEST_F(BundleTest, ChoosesSchedulesByNumberOfSteps) {
  const Bundle bundle = read_bundle(folder_);
  const Rate& rate = bundle.rates[0];
  const std::string sampler = bundle.choose_schedule(rate, 0)->sampler;
  std::set<std::string> found;
  for (const auto& [name, file] : rate.step_tables) {
    const Schedule& schedule =
        *bundle.choose_schedule(rate, static_cast<std::uint32_t>(bundle.schedules.at(name).n_steps()));
    EXPECT_EQ(schedule.sampler, sampler);
    EXPECT_EQ(schedule.n_steps(), bundle.schedules.at(name).n_steps());
    found.insert(schedule.name);
  }
  EXPECT_EQ(found.size(), 2U);
  expect_error(Result::kInvalidArgument, "77 steps: rate 0", [&] { bundle.choose_schedule(rate, 77); });
}

TEST_F(BundleTest, NamesBothModelsOfAMismatch) {
  const Bundle bundle = read_bundle(folder_);
  expect_error(Result::kBundleMismatch, "needs model 01020304 at rate 0", [&] { bundle.rate_of({1, 2, 3, 4}, 0); });
  expect_error(Result::kBundleMismatch, "at rate 200", [&] { bundle.rate_of(bundle.rates[0].model_id, 200); });
}

struct Fault {
  const char* name;
  std::function<void(Json&)> edit;
  const char* words;
};

class LevelsTest : public BundleTest {
 protected:
  LevelsTest() : BundleTest(kGoldenLevels) {}

  /// Returns a graph's input `level` in a document.
  static Json& level_input(Json& document, const char* graph) { return tensor(document, graph, "level"); }
};

TEST_F(LevelsTest, AFilesNumberIsItsLevelAndItsRateTheLastNotBeyondIt) {
  const Bundle bundle = read_bundle(folder_);
  ASSERT_TRUE(bundle.levels.has_value());
  EXPECT_EQ(bundle.levels->count, 129U);
  ASSERT_EQ(bundle.rates.size(), 2U);
  EXPECT_EQ(bundle.rates[0].number, 0U);
  EXPECT_EQ(bundle.rates[1].number, 100U);
  const ModelId id = bundle.rates[0].model_id;
  for (std::uint32_t level = 0; level < 129; ++level)
    EXPECT_EQ(bundle.rate_of(id, level).index, level < 100 ? 0U : 1U) << level;
  expect_error(Result::kBundleMismatch, " at levels 0 to 128. Load", [&] { bundle.rate_of(id, 129); });
  expect_error(Result::kBundleMismatch, "needs model 01020304 at rate 1", [&] { bundle.rate_of({1, 2, 3, 4}, 1); });
}

TEST_F(LevelsTest, BelowTheFirstRateComesTheFirst) {
  change([](Json& d) {
    d["rates"][0]["level"] = 20;
    d["levels"]["count"] = 101;
  });
  const Bundle bundle = read_bundle(folder_);
  for (const auto& [level, index] : {std::pair{0U, 0U}, {19U, 0U}, {20U, 0U}, {99U, 0U}, {100U, 1U}})
    EXPECT_EQ(bundle.rate_of(bundle.rates[0].model_id, level).index, index) << level;
}

TEST_F(BundleTest, NumbersOfRatesAreIndicesWithoutLevels) {
  const Bundle bundle = read_bundle(folder_);
  EXPECT_FALSE(bundle.levels.has_value());
  for (const Rate& rate : bundle.rates) EXPECT_EQ(rate.number, rate.index);
  change([](Json& d) { d["rates"][0]["level"] = 0; });
  expect_corrupt("rate 0: it has a level, but the bundle has none");
}

TEST_F(BundleTest, GraphsReadALevelOnlyInABundleWithLevels) {
  const auto add_level = [](Json& d, const char* graph) {
    d["graphs"][graph]["inputs"].push_back({{"name", "level"}, {"dtype", "float32"}, {"shape", {1, 2}}});
  };
  for (const char* graph : {"analysis_r0", "synthesis_r0", "vae_decoder"}) {
    SCOPED_TRACE(graph);
    write_manifest(good_);
    change([&](Json& d) { add_level(d, graph); });
    expect_corrupt("it must map");
  }
}

TEST_F(BundleTest, TheWorthOfABitIsCheckedAndNotNeeded) {
  for (const Json& worth : {Json(0), Json(0.25), Json(1)}) {
    change([&](Json& d) { d["rates"][0]["bit_worth"] = worth; });
    EXPECT_NO_THROW(read_bundle(folder_));
  }
  for (const Json& worth : {Json(-0.1), Json(1.1), Json("0"), Json(true), Json(nullptr)}) {
    change([&](Json& d) { d["rates"][0]["bit_worth"] = worth; });
    expect_corrupt("rates[0].bit_worth must be");
  }
}

TEST_F(LevelsTest, NamesTheFaultInLevels) {
  const std::vector<Fault> faults = {
      {"falling", [](Json& d) { d["rates"][0]["level"] = 101; }, "levels must increase, and be under 129"},
      {"twice", [](Json& d) { d["rates"][1]["level"] = 0; }, "levels must increase"},
      {"beyond", [](Json& d) { d["rates"][1]["level"] = 129; }, "rate 1 has the level 129"},
      {"beyond all", [](Json& d) { d["rates"][1]["level"] = 256; }, "rates[1].level must be"},
      {"below 0", [](Json& d) { d["rates"][0]["level"] = -1; }, "rates[0].level must be"},
      {"real number", [](Json& d) { d["rates"][1]["level"] = 100.0; }, "rates[1].level must be"},
      {"none at one rate", [](Json& d) { d["rates"][1].erase("level"); }, "rate 1: it has no level"},
      {"none at all", [](Json& d) { d.erase("levels"); }, "rate 0: it has a level, but the bundle has none"},
      {"null", [](Json& d) { d["levels"] = nullptr; }, "levels must be"},
      {"no file", [](Json& d) { d["levels"].erase("file"); }, "the key 'file'"},
      {"no count", [](Json& d) { d["levels"].erase("count"); }, "the key 'count'"},
      {"unknown key", [](Json& d) { d["levels"]["rows"] = 1; }, "without the key 'rows'"},
      {"file not listed", [](Json& d) { d["levels"]["file"] = "x.npz"; }, "levels: 'x.npz' is not among"},
      {"one level", [](Json& d) { d["levels"]["count"] = 1; }, "levels.count must be"},
      {"257 levels", [](Json& d) { d["levels"]["count"] = 257; }, "levels.count must be"},
      {"two models", [](Json& d) { d["rates"][1]["model_id"] = "00000000"; }, "not the same graphs and the same model"},
      {"two graphs",
       [](Json& d) {
         d["graphs"]["another"] = d["graphs"]["synthesis"];
         d["rates"][1]["graphs"]["synthesis"] = "another";
       },
       "not the same graphs and the same model"},
      {"graphs without a level",
       [](Json& d) {
         d.erase("levels");
         for (Json& rate : d["rates"]) rate.erase("level");
       },
       "as analysis it must map image to"},
      {"synthesis without a level", [](Json& d) { level_input(d, "synthesis")["name"] = "other"; },
       "as synthesis it must map level, y_hat to"},
      {"level without a width",
       [](Json& d) {
         level_input(d, "synthesis")["shape"] = {1, "batch"};
       },
       "should be [1, D]"},
      {"level of a batch",
       [](Json& d) {
         level_input(d, "analysis")["shape"] = {2, 16};
       },
       "should be [1, D]"},
  };
  for (const Fault& fault : faults) {
    SCOPED_TRACE(fault.name);
    write_manifest(good_);
    change(fault.edit);
    expect_corrupt(fault.words);
  }
}

TEST_F(BundleTest, NamesTheFaultInAManifest) {
  const std::vector<Fault> faults = {
      {"missing field", [](Json& d) { d.erase("family"); }, "the key 'family'"},
      {"unknown field", [](Json& d) { d["graph"] = Json::object(); }, "without the key 'graph'"},
      {"wrong type", [](Json& d) { d["default_rate"] = "0"; }, "default_rate must be"},
      {"schema is a text", [](Json& d) { d["schema"] = "2"; }, "schema must be"},
      {"name", [](Json& d) { d["name"] = "../x"; }, "name must be"},
      {"family", [](Json& d) { d["family"] = 1; }, "family must be"},
      {"licence", [](Json& d) { d["licence"] = ""; }, "licence must be"},
      {"provenance", [](Json& d) { d["provenance"] = 1; }, "provenance must be"},
      {"control graph of another role",
       [](Json& d) { d["rates"][0]["graphs"]["control"] = d["rates"][0]["graphs"]["unet_step"]; },
       "as control it must map"},
      {"graph not defined", [](Json& d) { d["rates"][0]["graphs"]["control"] = "other"; }, "'other' is not defined"},
      {"role unknown", [](Json& d) { d["rates"][0]["graphs"]["other"] = "unet_step"; },
       "it has graphs for analysis, control, other,"},
      {"role missing", [](Json& d) { d["rates"][0]["graphs"].erase("control"); }, "family 'rdeic' has the roles"},
      {"no roles", [](Json& d) { d["rates"][0]["graphs"] = Json::object(); }, "it has graphs for nothing"},
      {"role of a number", [](Json& d) { d["rates"][0]["graphs"]["control"] = 1; }, "graphs.control must be"},
      {"no schedule", [](Json& d) { d["rates"][0].erase("schedule"); }, "family 'rdeic' needs a schedule"},
      {"no step tables", [](Json& d) { d["rates"][0].erase("step_tables"); }, "family 'rdeic' needs step tables"},
      {"guided", [](Json& d) { d["rates"][0]["guided"] = 1; }, "guided must be true or false"},
      {"lambda_r", [](Json& d) { d["rates"][0]["lambda_r"] = 0; }, "lambda_r must be"},
      {"preferred", [](Json& d) { d["preferred"] = Json::array(); }, "preferred must be"},
      {"preferred of a backend", [](Json& d) { d["preferred"]["cpu"] = "fp32"; }, "preferred.cpu must be"},
      {"preferred of none", [](Json& d) { d["preferred"]["cpu"] = Json::array(); }, "preferred.cpu must be"},
      {"preferred twice",
       [](Json& d) {
         d["preferred"]["cpu"] = {"fp32", "fp32"};
       },
       "preferred.cpu must be forms that differ"},
      {"preferred of an unknown form", [](Json& d) { d["preferred"]["cpu"] = {"fp8"}; }, "preferred.cpu[0] must be"},
      {"schedule not defined", [](Json& d) { d["rates"][0]["schedule"] = "ddpm-9"; }, "'ddpm-9' is not defined"},
      {"schedule without table",
       [](Json& d) { d["rates"][0]["step_tables"].erase(d["rates"][0]["schedule"].get<std::string>()); }, ""},
      {"schedule of two lengths", [](Json& d) { d["schedules"].front()["a"].push_back(1.0); }, "one a step"},
      {"timestep", [](Json& d) { d["schedules"].front()["timesteps"][0] = 1000; }, "timesteps[0] must be"},
      {"abar_start", [](Json& d) { d["schedules"].front()["abar_start"] = 1.5; }, "abar_start must be"},
      {"coefficient", [](Json& d) { d["schedules"].front()["b"][0] = "x"; }, "b[0] must be a number"},
      {"rate index", [](Json& d) { d["rates"][0]["index"] = 1; }, "indices"},
      {"default rate", [](Json& d) { d["default_rate"] = 200; }, "default_rate is 200"},
      {"model id", [](Json& d) { d["rates"][0]["model_id"] = "00C0FFEE"; }, "model_id must be"},
      {"bpp", [](Json& d) { d["rates"][0]["bpp"] = 0; }, "bpp must be"},
      {"no rates", [](Json& d) { d["rates"] = Json::array(); }, "rates must be"},
      {"size multiple", [](Json& d) { d["size_multiple_px"] = 0; }, "size_multiple_px must be"},
      {"another size multiple", [](Json& d) { d["size_multiple_px"] = 128; }, "should be uint8 [batch, 128*hz, 128*wz"},
      {"size multiple that is odd", [](Json& d) { d["size_multiple_px"] = 63; },
       "does not divide size_multiple_px, 63"},
      {"latent, of schema 1", [](Json& d) { d["latent"] = Json::object(); }, "without the key 'latent'"},
      {"schema as a real number", [](Json& d) { d["schema"] = 2.0; }, "schema must be"},
      {"z_0 of another shape than z_prev",
       [](Json& d) {
         tensor(d, "vae_decoder", "z_0")["shape"] = {"batch", 5, "8*hz", "8*wz"};
       },
       "z_0 is float32 [batch, 5, 8*hz, 8*wz], but z_prev is float32 [batch, 4, 8*hz, 8*wz]"},
      {"z_0 of another type than z_prev", [](Json& d) { tensor(d, "vae_decoder", "z_0")["dtype"] = "float16"; },
       "z_0 is float16 [batch, 4, 8*hz, 8*wz], but z_prev is float32"},
      {"hint of two shapes",
       [](Json& d) {
         tensor(d, "control_r0", "hint")["shape"] = {"batch", 16, "4*hz", "4*wz"};
       },
       "hint is float32 [batch, 16, 4*hz, 4*wz], but hint is"},
      {"image in float32", [](Json& d) { tensor(d, "vae_decoder", "image")["dtype"] = "float32"; },
       "should be uint8 [batch, 64*hz, 64*wz, 3]"},
      {"image with the colours first",
       [](Json& d) {
         tensor(d, "vae_decoder", "image")["shape"] = {"batch", 3, "64*hz", "64*wz"};
       },
       "should be uint8 [batch, 64*hz, 64*wz, 3]"},
      {"step without a width",
       [](Json& d) {
         tensor(d, "unet_step", "step")["shape"] = {1, "batch"};
       },
       "should be [1, D]"},
      {"coefficient above float32", [](Json& d) { d["schedules"].front()["b"][0] = 1e308; }, "a finite float32"},
      {"huge number", [](Json& d) { d["size_multiple_px"] = UINT64_MAX; }, "size_multiple_px must be"},
      {"file not listed", [](Json& d) { d["files"].erase(d["rates"][0]["entropy"].get<std::string>()); },
       "is not among"},
      {"file hash", [](Json& d) { d["files"].front()["sha256"] = "xyz"; }, "sha256 must be 64 hexadecimal digits"},
      {"file gone",
       [](Json& d) {
         d["files"]["x.npz"] = {{"sha256", std::string(64, '0')}, {"bytes", 1}};
       },
       "no such file"},
      {"file length", [](Json& d) { d["files"].front()["bytes"] = 1; }, "should have 1"},
      {"dtype", [](Json& d) { d["graphs"].front()["inputs"][0]["dtype"] = "int4"; }, "dtype must be one of"},
      {"dimension", [](Json& d) { d["graphs"].front()["inputs"][0]["shape"][0] = 0; }, "shape[0] must be"},
      {"dimension's name", [](Json& d) { d["graphs"].front()["inputs"][0]["shape"][0] = ""; }, "shape[0] must be"},
      {"dimension that is unknown", [](Json& d) { d["graphs"].front()["inputs"][0]["shape"][0] = "b"; },
       "shape[0] must be a number of 1 or more, or batch"},
      {"no form", [](Json& d) { d["graphs"].front()["forms"] = Json::object(); }, "forms must be"},
      {"unknown form",
       [](Json& d) {
         d["graphs"].front()["forms"] = {{"fp8", "unet_step.onnx"}};
       },
       "forms must be"},
      {"form of no file", [](Json& d) { d["graphs"].front()["forms"]["fp16"] = "x.onnx"; }, "'x.onnx' is not among"},
      {"variants, of schema 1", [](Json& d) { d["graphs"].front()["variants"] = Json::object(); },
       "without the key 'variants'"},
  };
  for (const Fault& fault : faults) {
    SCOPED_TRACE(fault.name);
    write_manifest(good_);
    change(fault.edit);
    expect_corrupt(fault.words);
  }
}

TEST_F(BundleTest, RejectsTextThatIsNoManifest) {
  const std::vector<std::string> texts = {"",
                                          "{",
                                          "[]",
                                          std::string(100'000, '['),
                                          std::string(65, '[') + std::string(65, ']'),
                                          "{\"schema\": NaN}",
                                          "{\"schema\": 2, \"schema\": 2}",
                                          "{\"a\": {\"b\": 1, \"b\": 2}}",
                                          std::string("\x00\xff", 2),
                                          "{\"schema\": 1e999}",
                                          "{\"name\": \"\\ud800\"}",
                                          std::string("{}\x00", 3),
                                          std::string(2U << 20, ' ')};
  for (const std::string& text : texts) {
    write_manifest(text);
    expect_corrupt("bundle.json");
  }
}

TEST_F(BundleTest, ManyKeysTakeNoLongTime) {
  std::string text = "{";
  while (text.size() < (1U << 20) - 20) text += "\"" + std::to_string(text.size()) + "\":0,";
  write_manifest(text + "\"1\":0}");
  expect_corrupt("is repeated");
}

TEST_F(BundleTest, AnotherSchemaSaysToUpgrade) {
  for (const Json& schema : {Json(1), Json(3), Json(-1), Json(UINT64_MAX)}) {
    change([&](Json& document) { document["schema"] = schema; });
    expect_error(Result::kBundle, "reads, schema 2. Upgrade", [&] { read_bundle(folder_); });
  }
}

TEST_F(BundleTest, AnUnknownFamilyIsNamedWithThoseThatAreKnown) {
  for (const char* family : {"toy", "RDEIC", "rdeic ", ""}) {
    change([&](Json& document) { document["family"] = family; });
    expect_error(Result::kBundle, std::string("family '") + family + "' is not part of", [&] { read_bundle(folder_); });
    expect_error(Result::kBundle, "which has: rdeic, diffo. Upgrade", [&] { read_bundle(folder_); });
  }
}

TEST_F(BundleTest, RejectsPathsThatLeaveTheFolder) {
  std::ofstream(temporary_.path() / "outside.npz") << "x";
  for (const char* path :
       {"../outside.npz", "steps/../../outside.npz", "/etc/passwd", "C:/x.npz", "steps\\x.npz", "./x.npz",
        "steps//x.npz", "steps/", "", "..", "bundle.json", "x\n.npz", "x.npz\n", "\xc3\xa9.npz"}) {
    change([&](Json& document) { document["files"] = {{path, {{"sha256", std::string(64, '0')}, {"bytes", 1}}}}; });
    expect_corrupt("not a relative path");
  }
}

TEST_F(BundleTest, RejectsLinksThatLeaveTheFolder) {
  const std::string entropy = read_bundle(folder_).rates[0].entropy.path.filename();
  fs::rename(folder_ / entropy, temporary_.path() / "outside");
  fs::create_symlink(temporary_.path() / "outside", folder_ / entropy);
  expect_corrupt("leaves the bundle's folder");
}

TEST_F(BundleTest, AcceptsABundleBehindALink) {
  fs::create_directory_symlink(folder_, temporary_.path() / "link");
  EXPECT_EQ(read_bundle(temporary_.path() / "link").folder, folder_);
}

TEST_F(BundleTest, AChangedByteIsFoundUnlessNotVerified) {
  const fs::path path = read_bundle(folder_).rates[0].entropy.path;
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-1, std::ios::end);
  file.put('\x7e');
  file.close();
  expect_corrupt("SHA-256 is", true);
  EXPECT_NO_THROW(read_bundle(folder_, false));
}

TEST_F(BundleTest, FindsPathsAndNames) {
  EXPECT_EQ(find_bundle(folder_.string()), folder_);
  ASSERT_EQ(setenv("RDEIC_RT_BUNDLES",
                   (":" + (temporary_.path() / "none").string() + ":" + temporary_.path().string()).c_str(), 1),
            0);
  EXPECT_EQ(find_bundle("bundle"), folder_);
  expect_error(Result::kBundleNotFound, (temporary_.path() / "none" / "other").string(), [] { find_bundle("other"); });
  for (const char* no_name : {"", "..", "./bundle", "/none", "a:b"})
    expect_error(Result::kBundleNotFound, "no bundle", [&] { find_bundle(no_name); });
  unsetenv("RDEIC_RT_BUNDLES");
  expect_error(Result::kBundleNotFound, "is not a bundle", [&] { read_bundle(temporary_.path()); });
  expect_error(Result::kBundleNotFound, "no such folder", [&] { read_bundle(temporary_.path() / "none"); });
}

/// Folders of bundles in the search variable, and nothing else that is installed.
class InstalledTest : public BundleTest {
 protected:
  InstalledTest() {
    fs::create_directory(installed_);
    fs::create_directory(installed_ / "a-broken");
    std::ofstream(installed_ / "a-broken" / "bundle.json") << "{";
    fs::copy(folder_, installed_ / "a-short", fs::copy_options::recursive);
    fs::resize_file(read_bundle(installed_ / "a-short").rates[0].entropy.path, 2);
    fs::create_directory_symlink(kGoldenLevels, installed_ / "levels");
    fs::create_directory_symlink(folder_, installed_ / "rates");
    setenv("RDEIC_RT_BUNDLES", ((temporary_.path() / "none").string() + ":" + installed_.string()).c_str(), 1);
    setenv("XDG_CACHE_HOME", (temporary_.path() / "none").c_str(), 1);
  }
  ~InstalledTest() override {
    unsetenv("RDEIC_RT_BUNDLES");
    unsetenv("XDG_CACHE_HOME");
  }

  static Header header_of(const Bundle& bundle, unsigned rate) {
    const ModelId& model_id = bundle.rates[bundle.levels ? 0 : rate].model_id;
    return {.size = {1, 1}, .model_id = model_id, .rate = static_cast<std::uint8_t>(rate)};
  }

  fs::path installed_ = temporary_.path() / "installed";
};

TEST_F(InstalledTest, FileHasTheFirstBundleOfItsModelAndBrokenOnesArePassedOver) {
  const Bundle rates = read_bundle(folder_), levels = read_bundle(kGoldenLevels);
  for (const unsigned rate : {0U, 1U}) EXPECT_EQ(find_bundle_for(header_of(rates, rate)).folder, folder_);
  for (const unsigned level : {0U, 37U, 128U})
    EXPECT_EQ(find_bundle_for(header_of(levels, level)).folder, kGoldenLevels);
  fs::copy(folder_, installed_ / "tiny-2", fs::copy_options::recursive);
  EXPECT_EQ(find_bundle_for(header_of(rates, 0)).folder, installed_ / "tiny-2");
  EXPECT_EQ(find_bundle_for(header_of(levels, 1)).folder, kGoldenLevels);
}

TEST_F(InstalledTest, FileIsFoundADecodingHalfOfItsModel) {
  leave_out_encoding(folder_);
  EXPECT_EQ(find_bundle_for(header_of(read_bundle(kGolden), 1)).folder, folder_);
}

TEST_F(InstalledTest, FileOfNoInstalledModelIsAnErrorThatNamesItAndEveryPlace) {
  Header header = header_of(read_bundle(kGoldenLevels), 129);  // one more than there are
  for (const std::string& words :
       {std::string("model e32e6d28 at rate 129"), (installed_ / "a-broken").string() + " (cannot be used)",
        (installed_ / "a-short").string() + " (cannot be used)", (installed_ / "levels").string() + ", ",
        (installed_ / "rates").string() + ". Give"})
    expect_error(Result::kBundleMismatch, words, [&] { find_bundle_for(header); });
  fs::remove_all(installed_);
  expect_error(Result::kBundleMismatch, "looked at " + (temporary_.path() / "none").string(),
               [&] { find_bundle_for(header); });
}

}  // namespace
}  // namespace rdeic
