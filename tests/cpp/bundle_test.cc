#include "bundle.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "expect_error.h"
#include "input_limits.h"
#include "memory_estimate.h"
#include "temporary_folder.h"

namespace rdeic {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using testing::expect_error;
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
  EXPECT_FALSE(bundle.name.empty() || bundle.family.empty() || bundle.licence.empty());
  EXPECT_EQ(bundle.size_multiple_px % 64, 0U);
  ASSERT_GE(bundle.rates.size(), 2U);
  for (const Rate& rate : bundle.rates) {
    for (const char* role : {"synthesis", "control", "unet_step", "vae_decoder"})
      EXPECT_TRUE(fs::exists(bundle.graph_of(rate, role).file.path));
    EXPECT_TRUE(fs::exists(rate.entropy.path));
    EXPECT_TRUE(fs::exists(rate.step_table(rate.schedule).path));
    const Schedule& schedule = bundle.choose_schedule(rate, 0);
    EXPECT_EQ(schedule.name, rate.schedule);
    EXPECT_EQ(schedule.a.size(), schedule.n_steps());
    EXPECT_EQ(&bundle.rate_of(rate.model_id, rate.index), &rate);
  }
  const GraphSpec& unet_step = bundle.graph_of(bundle.rates[0], "unet_step");
  ASSERT_NE(unet_step.input("z_n"), nullptr);
  EXPECT_EQ(unet_step.input("z_n")->shape.size(), 4U);
  EXPECT_EQ(unet_step.input("z_n")->shape[2], kDynamic);
  EXPECT_EQ(unet_step.input("none"), nullptr);
}

TEST(Bundle, ReadsTheEmbeddedBundle) {
  const Bundle bundle = read_bundle(RDEIC_SOURCE_DIR "/engines/tiny");
  EXPECT_EQ(bundle.name, "tiny");
  EXPECT_GE(bundle.rates.size(), 2U);
}

TEST_F(BundleTest, ChoosesSchedulesByNumberOfSteps) {
  const Bundle bundle = read_bundle(folder_);
  const Rate& rate = bundle.rates[0];
  const std::string sampler = bundle.choose_schedule(rate, 0).sampler;
  std::set<std::string> found;
  for (const auto& [name, file] : rate.step_tables) {
    const Schedule& schedule =
        bundle.choose_schedule(rate, static_cast<std::uint32_t>(bundle.schedules.at(name).n_steps()));
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
  static Json& level_input(Json& document, const char* graph) {
    for (Json& input : document["graphs"][graph]["inputs"])
      if (input["name"] == "level") return input;
    throw std::logic_error("no input 'level'");
  }
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
  expect_error(Result::kBundleMismatch, "at rate 129", [&] { bundle.rate_of(id, 129); });
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
         level_input(d, "synthesis")["shape"] = {1, "d"};
       },
       "level should have the shape [1, D]"},
      {"level of a batch",
       [](Json& d) {
         level_input(d, "analysis")["shape"] = {2, 16};
       },
       "level should have the shape [1, D]"},
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
      {"schema is a text", [](Json& d) { d["schema"] = "1"; }, "schema must be"},
      {"name", [](Json& d) { d["name"] = "../x"; }, "name must be"},
      {"family", [](Json& d) { d["family"] = "Big"; }, "family must be"},
      {"licence", [](Json& d) { d["licence"] = ""; }, "licence must be"},
      {"provenance", [](Json& d) { d["provenance"] = 1; }, "provenance must be"},
      {"control graph of another role",
       [](Json& d) { d["rates"][0]["graphs"]["control"] = d["rates"][0]["graphs"]["unet_step"]; },
       "as control it must map"},
      {"graph not defined", [](Json& d) { d["rates"][0]["graphs"]["control"] = "other"; }, "'other' is not defined"},
      {"role unknown", [](Json& d) { d["rates"][0]["graphs"]["other"] = "x"; }, "without the key 'other'"},
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
      {"size multiple", [](Json& d) { d["size_multiple_px"] = 96; }, "size_multiple_px is not a multiple of 64"},
      {"latent factor", [](Json& d) { d["latent"]["factor_px"] = 7; }, "latent.factor_px"},
      {"latent channels", [](Json& d) { d["latent"]["channels"] = 1.5; }, "latent.channels must be"},
      {"latent channels of no graph", [](Json& d) { d["latent"]["channels"] = 7; }, "latent.channels, 7"},
      {"latent channels as a real number", [](Json& d) { d["latent"]["channels"] = 4.0; }, "latent.channels must be"},
      {"schema as a real number", [](Json& d) { d["schema"] = 1.0; }, "schema must be"},
      {"latent of rank 3",
       [](Json& d) {
         d["graphs"]["vae_decoder"]["inputs"][0]["shape"] = {"b", "h", "w"};
       },
       "z_0 should have four dimensions"},
      {"step without a width",
       [](Json& d) {
         for (Json& input : d["graphs"]["unet_step"]["inputs"])
           if (input["name"] == "step") input["shape"] = {"a", "b"};
       },
       "step should have the shape [1, D]"},
      {"coefficient above float32", [](Json& d) { d["schedules"].front()["b"][0] = 1e308; }, "a finite float32"},
      {"huge number", [](Json& d) { d["latent"]["channels"] = UINT64_MAX; }, "latent.channels must be"},
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
      {"variant not defined",
       [](Json& d) {
         d["graphs"].front()["variants"] = {{"fp16", "other"}};
       },
       "fp16 variant 'other'"},
      {"variant unknown",
       [](Json& d) {
         d["graphs"].front()["variants"] = {{"fp8", "other"}};
       },
       "without the key 'fp8'"},
      {"variant is itself",
       [](Json& d) {
         d["graphs"].front()["variants"] = {{"fp16", d["graphs"].begin().key()}};
       },
       "variant is in fp32"},
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
                                          "{\"schema\": 1, \"schema\": 1}",
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

TEST_F(BundleTest, NewerSchemaSaysToUpgrade) {
  for (const Json& schema : {Json(2), Json(-1), Json(UINT64_MAX)}) {
    change([&](Json& document) { document["schema"] = schema; });
    expect_error(Result::kBundle, "reads, schema 1. Upgrade", [&] { read_bundle(folder_); });
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

TEST_F(BundleTest, MemoryGrowsWithThePictureAndIsHeldAgainstItsLimit) {
  const Bundle bundle = read_bundle(folder_);
  const Rate& rate = bundle.rates[0];
  const std::uint64_t small = decode_bytes(bundle, rate, {512, 768});
  EXPECT_GT(small, 512U * 768 * 3);
  EXPECT_EQ(decode_bytes(bundle, rate, {1024, 1536}), 4 * small);
  Limits limits;
  EXPECT_NO_THROW(check_memory(bundle, rate, {65535, 65535}, limits));
  limits.max_memory_bytes = small;
  EXPECT_NO_THROW(check_memory(bundle, rate, {512, 768}, limits));
  expect_error(Result::kLimitExceeded, "max_memory_bytes", [&] { check_memory(bundle, rate, {513, 768}, limits); });
}

}  // namespace
}  // namespace rdeic
