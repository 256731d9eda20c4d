// The entropy model and the loop over slices, on the golden files.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <numeric>
#include <stdexcept>

#include "bundle.h"
#include "entropy/index_context.h"
#include "entropy/model.h"
#include "entropy/order.h"
#include "expect_error.h"
#include "listed_file.h"
#include "pixels.h"

namespace rdeic::entropy {
namespace {

using testing::expect_error;
namespace fs = std::filesystem;

const fs::path kGolden = fs::path(RDEIC_SOURCE_DIR) / "tests/golden/v1";

std::vector<fs::path> golden_files() {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(kGolden)) {
    if (entry.path().extension() == ".rdc") files.push_back(entry.path());
  }
  std::ranges::sort(files);
  return files;
}

std::vector<std::uint8_t> read_bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

Decoded decode(const std::vector<std::uint8_t>& data, const Kernels& kernels, unsigned threads,
               bool allow_partial = false) {
  static const Bundle bundle = read_bundle(kGolden / "bundle");
  const File file = parse(data, {}, allow_partial);
  const Rate& rate = bundle.rates[file.header.rate];
  const auto model = load(Arrays::read(rate.entropy, "entropy model"));
  EXPECT_EQ(model->id(), file.header.model_id);
  const Size padded = padded_size(file.header.size, bundle.size_multiple_px);
  const Sizes sizes{1, padded.height / bundle.size_multiple_px, padded.width / bundle.size_multiple_px};
  const Shape shape = bundle.reference(rate.graphs.at("synthesis")).input("y_hat")->resolve(sizes);
  Workers workers(threads);
  return model->decode({kernels, workers}, file, {{"y_hat", shape}}, {});
}

/// Expects that a model whose arrays lack any one of these is refused.
void expect_each_is_needed(const std::map<std::string, Array>& arrays) {
  for (const auto& [name, array] : arrays) {
    if (name.ends_with(".weight_low")) continue;  // without it the input is coarse, and the model another
    auto changed = arrays;
    changed.erase(name);
    expect_error(Result::kBundleCorrupt, "", [&] { load(Arrays(changed, "entropy model")); });
  }
}

std::span<const float> y_hat_of(const Decoded& decoded) {
  return elements<float>(*decoded.tensors.at("y_hat"), "y_hat");
}

TEST(Entropy, GoldenFilesGiveTheirLatentsToTheBit) {
  ASSERT_GE(golden_files().size(), 8U);
  for (const fs::path& path : golden_files()) {
    const Arrays expected = Arrays::read(testing::listed_file(fs::path(path).replace_extension(".npz")));
    const auto& shape = expected.shape("y_hat");
    const auto y_hat = expected.get<float>("y_hat", shape);
    for (const Kernels& kernels : available_kernels()) {
      for (const unsigned threads : {1U, 3U}) {
        const Decoded found = decode(read_bytes(path), kernels, threads);
        ASSERT_TRUE(std::ranges::equal(found.tensors.at("y_hat")->shape(), shape)) << path;
        EXPECT_EQ(std::memcmp(y_hat_of(found).data(), y_hat.data(), y_hat.size_bytes()), 0) << path << kernels.name;
      }
    }
  }
}

TEST(Entropy, CutFilesKeepTheirCompleteSlicesToTheBit) {
  const auto data = read_bytes(kGolden / "astronaut_r1.rdc");
  const Kernels& kernels = available_kernels().front();
  const Decoded whole = decode(data, kernels, 1);
  std::uint32_t most = 0;
  const std::size_t y_at = data.size() - 4 - parse(data, {}).y.size();
  for (std::size_t length = y_at; length < data.size(); length += 23) {
    const Decoded cut = decode({data.begin(), data.begin() + static_cast<std::ptrdiff_t>(length)}, kernels, 1, true);
    EXPECT_GE(cut.complete_slices, most) << "fewer slices of more bytes";
    most = std::max(most, cut.complete_slices);
    // Slices of the golden bundle: 4, 4 and 8 channels of 16.
    constexpr std::size_t kStops[] = {0, 4, 8, 16};
    const std::size_t same = y_hat_of(whole).size() / 16 * kStops[cut.complete_slices];
    EXPECT_TRUE(std::ranges::equal(y_hat_of(cut).first(same), y_hat_of(whole).first(same))) << length;
  }
  EXPECT_GT(most, 0U);
  EXPECT_LT(most, 3U);
}

TEST(Entropy, ModelIdMatchesTheTestVectorOfTheSpecification) {
  std::map<std::string, Array> arrays;
  arrays["slices"] = {DType::kInt32, {3}, std::vector<std::byte>(12)};
  for (const std::size_t i : {0U, 4U}) arrays["slices"].data[i] = std::byte{4};
  arrays["slices"].data[8] = std::byte{8};
  arrays["hyper.doubles"] = {DType::kUint8, {4}, {std::byte{1}, std::byte{1}, std::byte{0}, std::byte{0}}};
  EXPECT_EQ(model_id(Arrays(arrays, "")), (ModelId{0x46, 0x21, 0x95, 0x73}));
}

TEST(Entropy, ModelsWithMissingUnknownOrUnfitArraysAreRefused) {
  const auto original = Arrays::read(testing::listed_file(kGolden / "bundle/entropy_r0.npz"), "entropy model").all();
  expect_each_is_needed(original);
  auto changed = original;
  changed["surplus"] = original.at("version");
  expect_error(Result::kBundleCorrupt, "surplus", [&] { load(Arrays(changed, "entropy model")); });
  for (const char* name :
       {"version", "prior_masses", "scale_masses", "scale_lengths", "scale_thresholds", "hyper.doubles"}) {
    changed = original;
    std::ranges::fill(changed[name].data, std::byte{0});
    expect_error(Result::kBundleCorrupt, name, [&] { load(Arrays(changed, "entropy model")); });
  }
}

TEST(Entropy, TheVersionSaysWhichModelItIs) {
  auto arrays = Arrays::read(testing::listed_file(kGolden / "bundle/entropy_r0.npz"), "entropy model").all();
  arrays["version"].data[0] = std::byte{4};
  expect_error(Result::kBundleCorrupt, "it has version 4, not 1 or 2 or 3. Upgrade",
               [&] { load(Arrays(arrays, "x")); });
}

TEST(Entropy, ShapesThatTheModelDoesNotMakeAreRefused) {
  const auto model = load(Arrays::read(testing::listed_file(kGolden / "bundle/entropy_r0.npz"), "entropy model"));
  const auto data = read_bytes(kGolden / "astronaut_r0.rdc");
  Workers workers(1);
  for (const Shape& shape : {Shape{1, 16, 16}, Shape{1, 17, 16, 16}, Shape{1, 16, 18, 16}, Shape{1, 16, 16, 17}}) {
    expect_error(Result::kBundleCorrupt, "the entropy model has 16 channels", [&] {
      (void)model->decode({available_kernels().front(), workers}, parse(data, {}), {{"y_hat", shape}}, {});
    });
  }
}

/// Returns a model of indices alone, for 16 pixels an index, with three codes that are rarer and rarer.
Arrays indices_alone() {
  const auto array = [](std::initializer_list<std::int32_t> values) {
    const auto bytes = std::as_bytes(std::span(values.begin(), values.size()));
    return Array{DType::kInt32, {values.size()}, {bytes.begin(), bytes.end()}};
  };
  return Arrays(
      {{"version", array({2})}, {"index_px", array({16})}, {"prior_masses", array({1 << 23, 1 << 22, 1 << 22})}},
      "entropy model");
}

TEST(StaticPrior, SectionsGiveIndicesAndSomeAreRefused) {
  const auto model = load(indices_alone());
  EXPECT_EQ(model->position_px().at("vq_indices"), 16U);
  Workers workers(1);
  const auto decode = [&](std::vector<std::uint8_t> z, bool plain, std::vector<std::uint8_t> y = {}) {
    File file;
    file.header.z_is_plain = plain;
    file.z = z;
    file.y = y;
    const Decoded decoded =
        model->decode({available_kernels().front(), workers}, file, {{"vq_indices", {1, 1, 4}}}, {});
    EXPECT_EQ(decoded.complete_slices, decoded.n_slices);
    const auto found = elements<std::int64_t>(*decoded.tensors.at("vq_indices"), "vq_indices");
    return std::vector<std::int64_t>(found.begin(), found.end());
  };
  EXPECT_EQ(decode({0x24}, true), std::vector<std::int64_t>({0, 2, 1, 0}));
  EXPECT_EQ(decode({}, false), std::vector<std::int64_t>({0, 0, 0, 0}));
  expect_error(Result::kBitstream, "index 3, but the model has 3", [&] { decode({0x27}, true); });
  expect_error(Result::kBitstream, "y section: it has 2 bytes", [&] { decode({0x24}, true, {1, 2}); });
  expect_error(Result::kBitstream, "", [&] { decode({0x24, 0}, true); });
}

const fs::path kIndices = fs::path(RDEIC_SOURCE_DIR) / "tests/golden/indices";

TEST(IndexContext, GoldenSectionsGiveTheirIndicesToTheBit) {
  const auto model = load(Arrays::read(testing::listed_file(kIndices / "entropy.npz"), "entropy model"));
  const Arrays sections = Arrays::read(testing::listed_file(kIndices / "sections.npz"));
  std::size_t n_sections = 0;
  for (const auto& [name, array] : sections.all()) {
    if (!name.starts_with("indices_")) continue;
    ++n_sections;
    const auto section_name = "section_" + name.substr(8);
    const auto section = sections.get<std::uint8_t>(section_name, sections.shape(section_name));
    const auto expected = sections.get<std::int32_t>(name, array.shape);
    File file;
    file.z = section;
    const Shape shape{1, static_cast<std::int64_t>(array.shape[0]), static_cast<std::int64_t>(array.shape[1])};
    for (const Kernels& kernels : available_kernels()) {
      for (const unsigned threads : {1U, 3U}) {
        Workers workers(threads);
        const Decoded decoded = model->decode({kernels, workers}, file, {{"vq_indices", shape}}, {});
        const auto found = elements<std::int64_t>(*decoded.tensors.at("vq_indices"), "vq_indices");
        EXPECT_TRUE(std::ranges::equal(found, expected)) << name << kernels.name;
      }
    }
    std::vector<std::uint8_t> longer(section.begin(), section.end());
    longer.push_back(1);
    file.z = longer;
    Workers workers(1);
    expect_error(Result::kBitstream, "z section", [&] {
      (void)model->decode({available_kernels().front(), workers}, file, {{"vq_indices", shape}}, {});
    });
  }
  EXPECT_EQ(n_sections, 5U);
}

TEST(IndexContext, DecodingAsksWhetherToGoOn) {
  const auto model = load(Arrays::read(testing::listed_file(kIndices / "entropy.npz"), "entropy model"));
  const Arrays sections = Arrays::read(testing::listed_file(kIndices / "sections.npz"));
  const auto section = sections.get<std::uint8_t>("section_16x24", sections.shape("section_16x24"));
  File file;
  file.z = section;
  Workers workers(1);
  int asked = 0;
  const Compute compute{available_kernels().front(), workers, [&](std::uint64_t) {
                          if (++asked == 8) throw std::runtime_error("enough");
                        }};
  EXPECT_THROW((void)model->decode(compute, file, {{"vq_indices", {1, 16, 24}}}, {}), std::runtime_error);
}

TEST(IndexContext, ModelsWithMissingUnknownOrUnfitArraysAreRefused) {
  const auto original = Arrays::read(testing::listed_file(kIndices / "entropy.npz"), "entropy model").all();
  expect_each_is_needed(original);
  const auto refused = [&](const std::string& name, std::vector<std::uint64_t> shape, DType type, const char* message) {
    auto changed = original;
    const std::size_t count = std::accumulate(shape.begin(), shape.end(), std::uint64_t{1}, std::multiplies{});
    changed[name] = {type, std::move(shape), std::vector<std::byte>(count * dtype_bytes(type))};
    expect_error(Result::kBundleCorrupt, message, [&] { load(Arrays(changed, "entropy model")); });
  };
  refused("codebook", {39, 8}, DType::kUint16, "codebook");
  refused("class_weights", {257, 40}, DType::kUint8, "257 rows, should have 1 to 256");
  refused("class_weights", {5, 41}, DType::kUint8, "class_weights");
  refused("context.3.2.offset", {4}, DType::kInt64, "context.3.2.offset");
  refused("context.0.0.weight", {3, 3, 8, 12}, DType::kInt8, "unknown array");
  auto changed = original;
  changed["version"].data[0] = std::byte{2};
  expect_error(Result::kBundleCorrupt, "unknown array", [&] { load(Arrays(changed, "entropy model")); });
  for (const char* part : {"weight", "weight_low"}) {
    changed["context.1.0.0." + std::string(part)] = {DType::kInt8, {1, 1, 8, 12}, std::vector<std::byte>(96)};
  }
  changed["version"] = original.at("version");
  expect_error(Result::kBundleCorrupt, "has a kernel of 1x1", [&] { load(Arrays(changed, "entropy model")); });
}

TEST(IndexContext, MassesAreThoseOfTheSpecification) {
  const std::vector<std::uint8_t> weights = {8, 0, 4};
  EXPECT_EQ(masses_of(weights), std::vector<std::int32_t>({7456541, 3728270, 5592405}));
  std::vector<std::uint8_t> many(65536);
  many.back() = 255;
  const std::vector<std::int32_t> masses = masses_of(many);
  EXPECT_EQ(masses.front(), 1);
  EXPECT_EQ(masses.back(), static_cast<std::int32_t>(kTotalMass) - 65535);
}

TEST(Order, AnchorsAreWhereRowAndColumnAddUpToAnOddNumber) {
  std::vector<std::uint16_t> grid(8);
  for (std::size_t i = 0; i < grid.size(); ++i) grid[i] = static_cast<std::uint16_t>(i);
  const View<const std::uint16_t> view{grid.data(), 2, 4, 1, 1};
  EXPECT_EQ(squeeze(view, Pass::kAnchors).values(), std::vector<std::uint16_t>({1, 3, 4, 6}));
  EXPECT_EQ(squeeze(view, Pass::kNonAnchors).values(), std::vector<std::uint16_t>({0, 2, 5, 7}));
}

TEST(Order, GroupsRiseByScaleIndexAndKeepTheOrderWithin) {
  const std::vector<std::uint8_t> indices = {5, 2, 63, 5, 1, 2, 0, 5};
  const Groups groups(indices, 2);
  ASSERT_EQ(groups.all().size(), 3U);
  EXPECT_EQ(groups.all()[0].scale_index, 2);
  EXPECT_TRUE(std::ranges::equal(groups.all()[0].numbers, std::vector<std::uint32_t>{1, 5}));
  EXPECT_EQ(groups.all()[1].scale_index, 5);
  EXPECT_TRUE(std::ranges::equal(groups.all()[1].numbers, std::vector<std::uint32_t>{0, 3, 7}));
  EXPECT_EQ(groups.all()[2].scale_index, 63);
}

TEST(Workers, DoEveryTaskOnceAndPassOnWhatIsThrown) {
  Workers workers(4);
  std::vector<std::atomic<int>> counts(1000);
  workers.run(counts.size(), [&](std::size_t i) { ++counts[i]; });
  EXPECT_TRUE(std::ranges::all_of(counts, [](const auto& count) { return count == 1; }));
  EXPECT_THROW(workers.run(8,
                           [](std::size_t i) {
                             if (i == 3) throw std::runtime_error("task");
                           }),
               std::runtime_error);
  workers.run(8, [&](std::size_t i) { ++counts[i]; });
  EXPECT_EQ(counts[7], 2);
}

}  // namespace
}  // namespace rdeic::entropy
