// A family that is not the library's own: another grid, other latents, no control and no schedule. It is defined here
// and nowhere else, and decodes whole and in tiles like any other, with an entropy model and a backend from here too.

#include "families/family.h"

#include <gtest/gtest.h>
#include <zip.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "codec.h"
#include "expect_error.h"
#include "rdc_builder.h"
#include "temporary_folder.h"

namespace rdeic {
namespace {

namespace fs = std::filesystem;
using families::Given;
using families::Names;
using families::Role;
using families::StageList;
using Json = nlohmann::ordered_json;
using testing::Bytes;
using testing::expect_error;

constexpr std::uint32_t kUnitPx = 32;

// ---- The family: left, right - mix -> rough - refine -> fine - paint -> image
// ----------------------------------------

class ToyList final : public StageList {
 public:
  ToyList(const families::Loader& load, bool refined)
      : mix_(families::graph_stage(Part::kSynthesis, load, "mix", {"rough"})),
        paint_(families::graph_stage(Part::kVae, load, "paint", {"image"})) {
    if (refined) refine_.push_back(families::graph_stage(Part::kDenoise, load, "refine", {"fine"}));
  }

  std::vector<const Stage*> stages() const override {
    std::vector<const Stage*> all = {&mix_};
    for (const Stage& stage : refine_) all.push_back(&stage);
    all.push_back(&paint_);
    return all;
  }

  ValuePtr run(Placement& at, const Given& given) const override {
    ValuePtr rough = at.each(mix_, {{"left", given.tensors.at("left")}, {"right", given.tensors.at("right")}})[0];
    for (const Stage& stage : refine_) rough = at.each(stage, {{"rough", rough}})[0];
    return at.each(paint_, {{"fine", rough}})[0];
  }

 private:
  Stage mix_, paint_;
  std::vector<Stage> refine_;  // none in previews
};

class Toy final : public families::Family {
 public:
  const std::string& name() const override { return name_; }
  std::span<const Role> roles() const override { return roles_; }
  const Names& alike() const override { return alike_; }
  bool has_steps() const override { return false; }
  const std::map<std::string, std::string>& latents() const override { return latents_; }

  std::unique_ptr<const StageList> decoder(const families::Loader& load, const Schedule*) const override {
    return std::make_unique<ToyList>(load, true);
  }
  std::unique_ptr<const StageList> preview(const families::Loader& load) const override {
    return std::make_unique<ToyList>(load, false);
  }

 private:
  const std::string name_ = "toy";
  const std::vector<Role> roles_ = {{.name = "split", .inputs = {"image"}, .outputs = {"a", "b"}, .encodes = true},
                                    {.name = "mix", .inputs = {"left", "right"}, .outputs = {"rough"}},
                                    {.name = "refine", .inputs = {"rough"}, .outputs = {"fine"}},
                                    {.name = "paint", .inputs = {"fine"}, .outputs = {"image"}}};
  const Names alike_ = {"rough", "fine"};
  const std::map<std::string, std::string> latents_ = {{"left", "mix"}, {"right", "mix"}};
};

families::Table with_toy() {
  static const Toy toy;
  static const families::Family* const kTable[] = {families::table()[0], &toy};
  return kTable;
}

// ---- Its entropy model: sections are values of latents, repeated
// -----------------------------------------------------

class ToyModel final : public entropy::Model {
 public:
  explicit ToyModel(const Arrays& arrays) : id_(entropy::model_id(arrays)) {}

  const ModelId& id() const override { return id_; }
  entropy::Decoded decode(const entropy::Compute&, const File& file, const std::map<std::string, Shape>& shapes,
                          const entropy::BeforeSlice&) const override {
    Tensor<float> left(shapes.at("left"));
    Tensor<std::int64_t> right(shapes.at("right"));
    for (std::size_t i = 0; i < left.size(); ++i) left.data()[i] = file.y[i % file.y.size()];
    for (std::size_t i = 0; i < right.size(); ++i) right.data()[i] = file.z[i % file.z.size()];
    entropy::Decoded decoded;
    decoded.complete_slices = decoded.n_slices = 1;
    decoded.tensors.emplace("left", to_value(std::move(left)));
    decoded.tensors.emplace("right", to_value(std::move(right)));
    return decoded;
  }

 private:
  ModelId id_;
};

constexpr entropy::Kind kKinds[] = {{77, [](const Arrays& arrays) -> std::shared_ptr<const entropy::Model> {
                                       return std::make_shared<ToyModel>(arrays);
                                     }}};

// ---- Its backend: graphs by their names
// ------------------------------------------------------------------------------

/// Returns an element of an array [A, H, W, C] or, if `channels_first`, [A, C, H, W].
template <typename T>
float at(const Value& value, std::size_t y, std::size_t x, std::size_t c, bool channels_first = false) {
  const auto side = [&](std::size_t axis) { return static_cast<std::size_t>(value.shape()[axis]); };
  const std::size_t index = channels_first ? (c * side(2) + y) * side(3) + x : (y * side(2) + x) * side(3) + c;
  return static_cast<float>(elements<T>(value, "value")[index]);
}

template <typename T, typename Function>
ValuePtr made(std::int64_t height, std::int64_t width, Function function) {
  Tensor<T> tensor({1, height, width, 3});
  T* to = tensor.data();
  for (std::size_t y = 0; y < static_cast<std::size_t>(height); ++y)
    for (std::size_t x = 0; x < static_cast<std::size_t>(width); ++x)
      for (std::size_t c = 0; c < 3; ++c) *to++ = static_cast<T>(function(y, x, c));
  return to_value(std::move(tensor));
}

ValuePtr mix(const Values& in) {
  const Value &left = *in.at("left"), &right = *in.at("right");
  return made<float>(left.shape()[2] / 2, left.shape()[3] / 2, [&](std::size_t y, std::size_t x, std::size_t c) {
    const auto columns = static_cast<std::size_t>(right.shape()[2]);
    const auto index = elements<std::int64_t>(right, "right")[y / 2 * columns + x / 2];
    return at<float>(left, 2 * y, 2 * x + 1, c, true) + static_cast<float>(index);
  });
}

ValuePtr refine(const Values& in) {
  const Value& rough = *in.at("rough");
  return made<float>(rough.shape()[1], rough.shape()[2], [&](std::size_t y, std::size_t x, std::size_t c) {
    return 0.5F * at<float>(rough, y, x, c) + 3.0F;
  });
}

ValuePtr paint(const Values& in) {
  const Value& fine = *in.at("fine");
  return made<std::uint8_t>(16 * fine.shape()[1], 16 * fine.shape()[2],
                            [&](std::size_t y, std::size_t x, std::size_t c) {
                              return std::min(at<float>(fine, y / 16, x / 16, c), 255.0F);
                            });
}

class ToyGraph final : public backends::Graph {
 public:
  explicit ToyGraph(const GraphSpec& spec) : spec_(spec) {}

  const GraphSpec& spec() const override { return spec_; }
  Values run(const Values& inputs, backends::Location) const override {
    static const std::map<std::string, ValuePtr (*)(const Values&)> kFunctions = {
        {"mix", mix}, {"refine", refine}, {"paint", paint}};
    return {{spec_.outputs[0].name, kFunctions.at(spec_.id)(inputs)}};
  }

 private:
  const GraphSpec& spec_;
};

class ToyBackend final : public backends::Backend {
 public:
  const std::string& name() const override { return name_; }
  std::span<const std::string_view> forms() const override { return kForms; }
  std::unique_ptr<const backends::Graph> load(const GraphSpec& spec) const override {
    return std::make_unique<ToyGraph>(spec);
  }

 private:
  const std::string name_ = "toy";
};

// ---- A bundle of it
// --------------------------------------------------------------------------------------------------

Json tensor(const char* name, const char* dtype, Json shape) {
  return {{"name", name}, {"dtype", dtype}, {"shape", std::move(shape)}};
}

class FamilyTest : public ::testing::Test {
 protected:
  FamilyTest() {
    fs::create_directories(folder_);
    std::ofstream(folder_ / "g.onnx") << 'x';
    const std::string version("\x93NUMPY\x01\0\x46\0{'descr': '<i4', 'fortran_order': False, 'shape': (1,), }", 67);
    const std::string npy = version + std::string(12, ' ') + "\n" + std::string("\x4d\0\0\0", 4);
    const zipFile zip = zipOpen64((folder_ / "e.npz").c_str(), APPEND_STATUS_CREATE);
    zipOpenNewFileInZip(zip, "version.npy", nullptr, nullptr, 0, nullptr, 0, nullptr, 0, 0);
    zipWriteInFileInZip(zip, npy.data(), static_cast<unsigned>(npy.size()));
    zipCloseFileInZip(zip);
    zipClose(zip, nullptr);
    const Arrays arrays({{"version", {DType::kInt32, {1}, {std::byte{77}, {}, {}, {}}}}}, "");
    id_ = entropy::model_id(arrays);

    const auto graph = [](Json inputs, Json outputs) {
      return Json{{"inputs", std::move(inputs)}, {"outputs", std::move(outputs)}, {"forms", {{"int8", "g.onnx"}}}};
    };
    const Json image = tensor("image", "uint8", {"batch", "32*hz", "32*wz", 3});
    const Json left = tensor("left", "float32", {"batch", 3, "4*hz", "4*wz"});
    const Json right = tensor("right", "int64", {"batch", "hz", "wz"});
    const Json rough = tensor("rough", "float32", {"batch", "2*hz", "2*wz", 3});
    const Json fine = tensor("fine", "float32", {"batch", "2*hz", "2*wz", 3});
    const Json a = tensor("a", "float32", {"batch"}), b = tensor("b", "float32", {"batch"});
    document_ = {{"schema", 2},
                 {"name", "toy"},
                 {"family", "toy"},
                 {"licence", "Apache-2.0"},
                 {"provenance", Json::object()},
                 {"size_multiple_px", kUnitPx},
                 {"graphs",
                  {{"split", graph(Json::array({image}), Json::array({a, b}))},
                   {"mix", graph(Json::array({left, right}), Json::array({rough}))},
                   {"refine", graph(Json::array({rough}), Json::array({fine}))},
                   {"paint", graph(Json::array({fine}), Json::array({image}))}}},
                 {"preferred", Json::object()},
                 {"schedules", Json::object()},
                 {"default_rate", 0},
                 {"calibration", Json::object()}};
    for (const char* name : {"g.onnx", "e.npz"})
      document_["files"][name] = {{"sha256", std::string(64, '0')}, {"bytes", fs::file_size(folder_ / name)}};
    document_["rates"] =
        Json::array({{{"index", 0},
                      {"label", "only"},
                      {"bpp", 0.1},
                      {"model_id", hex_id()},
                      {"entropy", "e.npz"},
                      {"graphs", {{"split", "split"}, {"mix", "mix"}, {"refine", "refine"}, {"paint", "paint"}}}}});
  }

  std::string hex_id() const {
    std::string digits;
    for (const std::uint8_t byte : id_) digits += text("%02x", byte);
    return digits;
  }

  Bundle bundle() const {
    std::ofstream(folder_ / "bundle.json") << document_.dump();
    return read_bundle(folder_, false, with_toy());
  }

  std::unique_ptr<Codec> codec(CodecOptions options = {}) const {
    options.threads = 1;
    return std::make_unique<Codec>(std::make_shared<const Bundle>(bundle()), options,
                                   CodecParts{std::make_unique<ToyBackend>(), kKinds});
  }

  Bytes file() const {
    testing::FileParts parts;
    std::ranges::copy(id_, parts.start.begin() + 6);
    parts.start[10] = 0;
    parts.width = testing::varint(kWidth);
    parts.height = testing::varint(kHeight);
    parts.z = {0, 30, 7, 60, 2};
    for (std::uint8_t value = 0; value < 101; ++value) parts.y.push_back(value);
    return parts.file();
  }

  Bytes decode(const DecodeOptions& options = {}, CodecOptions how = {}) const {
    Bytes pixels;
    codec(std::move(how))
        ->decode(
            file(),
            [&](Size size) {
              pixels.resize(std::size_t{3} * size.width * size.height);
              return PixelRows{pixels.data(), std::size_t{3} * size.width};
            },
            options);
    return pixels;
  }

  static constexpr std::uint32_t kWidth = 500, kHeight = 300;  // 512 x 320 when padded
  static constexpr std::uint32_t kTilePx = 256;                // 6 tiles

  testing::TemporaryFolder temporary_;
  fs::path folder_ = temporary_.path() / "bundle";
  ModelId id_{};
  Json document_;
};

TEST_F(FamilyTest, DecodesWhatItsStagesMakeOfItsLatents) {
  const Bytes pixels = decode();
  const File parsed = parse(file(), {});
  const std::size_t columns = 512 / kUnitPx, rows = 320 / kUnitPx;
  for (std::size_t y = 0; y < kHeight; y += 7) {
    for (std::size_t x = 0; x < kWidth; x += 5) {
      for (std::size_t c = 0; c < 3; ++c) {
        const std::size_t left = (c * 4 * rows + y / 16 * 2) * 4 * columns + x / 16 * 2 + 1;
        const std::size_t right = y / kUnitPx * columns + x / kUnitPx;
        const int rough = parsed.y[left % parsed.y.size()] + parsed.z[right % parsed.z.size()];
        ASSERT_EQ(pixels[(y * kWidth + x) * 3 + c], rough / 2 + 3) << y << ", " << x;
      }
    }
  }
}

TEST_F(FamilyTest, TilesAndWholeGiveTheSameWhereStagesSeeNoNeighbours) {
  for (const bool preview : {false, true})
    EXPECT_EQ(decode({.preview = preview}, {.tile_px = kTilePx}), decode({.preview = preview}));
}

TEST_F(FamilyTest, PreviewsLeaveOutAStage) { EXPECT_NE(decode({.preview = true}), decode()); }

TEST_F(FamilyTest, ProgressIsToldOfItsOwnParts) {
  for (const std::uint32_t tile_px : {1024U, kTilePx}) {
    std::vector<std::pair<Part, unsigned>> told;
    unsigned parts = 0, calls = 0;
    decode({.progress =
                [&](Part part, unsigned done, unsigned total) {
                  if (told.empty() || told.back() != std::pair(part, done)) told.emplace_back(part, done);
                  parts = total;
                  ++calls;
                  return true;
                }},
           {.tile_px = tile_px});
    const std::vector<std::pair<Part, unsigned>> expected = {
        {Part::kEntropy, 0}, {Part::kSynthesis, 1}, {Part::kDenoise, 2}, {Part::kVae, 3}, {Part::kDone, 4}};
    EXPECT_EQ(told, expected);
    EXPECT_EQ(parts, 4U);
    EXPECT_EQ(calls, tile_px == kTilePx ? 2 + 3 * 6 : 5U);
  }
}

TEST_F(FamilyTest, PrepareLoadsWhatItHas) { EXPECT_NO_THROW(codec()->prepare(0)); }

TEST_F(FamilyTest, MemoryFollowsFromItsShapes) {
  CodecOptions options;
  options.limits.max_memory_bytes = 320 * 512 * 3;
  expect_error(Result::kLimitExceeded, "max_memory_bytes", [&] { decode({}, options); });
}

TEST_F(FamilyTest, StepsCannotBeChosen) {
  EXPECT_EQ(bundle().choose_schedule(bundle().rates[0], 0), nullptr);
  expect_error(Result::kInvalidArgument, "does not decode in steps", [&] { decode({.steps = 2}); });
}

TEST_F(FamilyTest, BundlesHaveItsRolesAndNoSchedules) {
  const Json good = document_;
  document_["rates"][0]["graphs"].erase("refine");
  expect_error(Result::kBundleCorrupt, "family 'toy' has the roles mix, paint, refine, split", [&] { bundle(); });
  document_ = good;
  document_["schedules"]["s"] = {{"sampler", "x"}, {"timesteps", {1}}, {"abar_start", 1},
                                 {"a", {1}},       {"b", {1}},         {"c", {0}}};
  EXPECT_NO_THROW(bundle());
  document_["rates"][0]["schedule"] = "s";
  expect_error(Result::kBundleCorrupt, "family 'toy' has no use for a schedule", [&] { bundle(); });
  document_ = good;
  document_["graphs"]["paint"]["inputs"][0]["shape"][3] = 4;
  expect_error(Result::kBundleCorrupt, "fine is float32 [batch, 2*hz, 2*wz, 4], but", [&] { bundle(); });
}

TEST_F(FamilyTest, TheLibraryItselfDoesNotKnowIt) {
  bundle();
  expect_error(Result::kBundle, "family 'toy' is not part of", [&] { read_bundle(folder_, false); });
}

TEST_F(FamilyTest, ItsEntropyModelIsFoundByItsVersion) {
  Codec without(std::make_shared<const Bundle>(bundle()), {.threads = 1}, {std::make_unique<ToyBackend>()});
  expect_error(Result::kBundleCorrupt, "it has version 77, not 1", [&] { without.read_latents(file()); });
  EXPECT_EQ(codec()->read_latents(file()).tensors.size(), 2U);
}

}  // namespace
}  // namespace rdeic
