// Whole decodes, on the golden files and their bundle.

#include "codec.h"

#include <gtest/gtest.h>
#include <png.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "decoding_half.h"
#include "expect_error.h"
#include "rdc_builder.h"
#include "temporary_folder.h"

namespace rdeic {
namespace {

using testing::expect_error;
namespace fs = std::filesystem;
using Bytes = std::vector<std::uint8_t>;

const fs::path kGolden = fs::path(RDEIC_SOURCE_DIR) / "tests/golden/v1";
const fs::path kGoldenLevels = fs::path(RDEIC_SOURCE_DIR) / "tests/golden/v1-levels";
// Of golden pixels, made by another version of ONNX Runtime or on another CPU: tests/golden/v1/limits.json.
constexpr int kMaxDifference = 2;

Bytes read_bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_bytes(const fs::path& path, const Bytes& data) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size()));
}

Bytes read_png(const fs::path& path) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  if (!png_image_begin_read_from_file(&image, path.c_str())) throw std::runtime_error(image.message);
  image.format = PNG_FORMAT_RGB;
  Bytes pixels(PNG_IMAGE_SIZE(image));
  png_image_finish_read(&image, nullptr, pixels.data(), 0, nullptr);
  return pixels;
}

std::shared_ptr<const Bundle> golden_bundle() {
  static const auto bundle = std::make_shared<const Bundle>(read_bundle(kGolden / "bundle"));
  return bundle;
}

Codec& codec() {
  static Codec golden(golden_bundle(), {.threads = 1});
  return golden;
}

struct Image {
  Bytes pixels;
  Decoded about;
};

Image decode(Codec& with, const Bytes& data, const DecodeOptions& options = {}) {
  Image image;
  image.about = with.decode(
      data,
      [&](Size size) {
        image.pixels.resize(std::size_t{3} * size.width * size.height);
        return PixelRows{image.pixels.data(), std::size_t{3} * size.width};
      },
      options);
  return image;
}

const Bytes& coffee() {
  static const Bytes data = read_bytes(kGolden / "coffee_r0.rdc");
  return data;
}

int largest_difference(const Bytes& a, const Bytes& b) {
  EXPECT_EQ(a.size(), b.size());
  int largest = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

void expect_golden_pixels(Codec& with, const fs::path& folder) {
  unsigned n_files = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".rdc") continue;
    ++n_files;
    const Image image = decode(with, read_bytes(entry.path()));
    const Bytes expected = read_png(fs::path(entry.path()).replace_extension(".png"));
    EXPECT_LE(largest_difference(image.pixels, expected), kMaxDifference) << entry.path();
    EXPECT_EQ(image.about.missing_bytes, 0U);
    EXPECT_EQ(image.about.complete_slices, image.about.n_slices);
  }
  EXPECT_GE(n_files, 8U);
}

TEST(Codec, GoldenFilesGiveTheirPixels) { expect_golden_pixels(codec(), kGolden); }

std::shared_ptr<const Bundle> read_shared(const fs::path& folder, bool verify = true) {
  return std::make_shared<const Bundle>(read_bundle(folder, verify));
}

TEST(CodecAtLevels, GoldenFilesGiveTheirPixels) {
  Codec with(read_shared(kGoldenLevels / "bundle"), {.threads = 1});
  expect_golden_pixels(with, kGoldenLevels);
}

TEST(Codec, DecodingHalfOfABundleGivesTheSameImagesAndPreviews) {
  for (const fs::path& golden : {kGolden, kGoldenLevels}) {
    const testing::TemporaryFolder folder;
    fs::copy(golden / "bundle", folder.path() / "bundle");
    testing::leave_out_encoding(folder.path() / "bundle");
    Codec whole(read_shared(golden / "bundle"), {.threads = 1}),
        half(read_shared(folder.path() / "bundle"), {.threads = 1});
    const Bytes data = read_bytes(golden / "coffee_r0.rdc");
    for (const bool preview : {false, true}) {
      const DecodeOptions options{.preview = preview};
      EXPECT_EQ(decode(half, data, options).pixels, decode(whole, data, options).pixels);
    }
    half.prepare(0);
  }
}

TEST(CodecAtLevels, TheLevelOfAFileIsSeenInItsImageAndPreviewAndNotInItsLatents) {
  Codec with(read_shared(kGoldenLevels / "bundle"), {.threads = 1});
  const Bytes at_100 = read_bytes(kGoldenLevels / "chelsea_r100.rdc");
  const Bytes at_128 = read_bytes(kGoldenLevels / "chelsea_r128.rdc");
  const Latents one = with.read_latents(at_100), other = with.read_latents(at_128);
  EXPECT_EQ(one.rate, 1U);
  EXPECT_EQ(other.rate, 1U);
  EXPECT_EQ(one.level, 100U);
  EXPECT_EQ(other.level, 128U);
  EXPECT_TRUE(std::ranges::equal(elements<float>(*one.tensors.at("y_hat"), "y_hat"),
                                 elements<float>(*other.tensors.at("y_hat"), "y_hat")));
  for (const bool preview : {false, true}) {
    const DecodeOptions options{.seed = 1, .preview = preview};
    EXPECT_NE(decode(with, at_100, options).pixels, decode(with, at_128, options).pixels);
  }
}

TEST(CodecAtLevels, RowsAreReadOnceAndWhenTheyAreNeeded) {
  const testing::TemporaryFolder folder;
  fs::copy(kGoldenLevels / "bundle", folder.path() / "bundle");
  const fs::path rows = folder.path() / "bundle/levels.npz";
  const Bytes data = read_bytes(kGoldenLevels / "coffee_r37.rdc"), original = read_bytes(rows);
  Codec with(read_shared(folder.path() / "bundle"), {.threads = 1});
  Bytes changed = original;
  changed[changed.size() / 2] ^= 1;
  write_bytes(rows, changed);
  EXPECT_NO_THROW(with.read_latents(data));
  expect_error(Result::kBundleCorrupt, "levels.npz: SHA-256", [&] { decode(with, data); });
  write_bytes(rows, original);
  with.prepare(0);
  write_bytes(rows, changed);
  EXPECT_NO_THROW(decode(with, data));
  EXPECT_NO_THROW(decode(with, read_bytes(kGoldenLevels / "coffee_r128.rdc")));
}

TEST(CodecAtLevels, RowsThatDoNotFitAreBundleErrors) {
  const testing::TemporaryFolder folder;
  fs::copy(kGoldenLevels / "bundle", folder.path() / "bundle");
  const Bytes data = read_bytes(kGoldenLevels / "coffee_r37.rdc");
  Bundle bundle = read_bundle(folder.path() / "bundle", false);
  bundle.levels->count = 128;
  Codec fewer(std::make_shared<const Bundle>(bundle), {.threads = 1});
  expect_error(Result::kBundleCorrupt, "array 'synthesis' is float32 [129, ", [&] { decode(fewer, data); });
  bundle.levels->count = 129;
  for (TensorSpec& input : bundle.graphs.at("synthesis").at("fp32").inputs) {
    if (input.name == kLevelInput) ++input.shape.back().factor;
  }
  Codec wider(std::make_shared<const Bundle>(bundle), {.threads = 1});
  expect_error(Result::kBundleCorrupt, "array 'synthesis' is float32 [129, ",
               [&] { decode(wider, data, {.preview = true}); });
  bundle = read_bundle(folder.path() / "bundle", false);
  bundle.levels->file = bundle.rates[0].step_table(*bundle.rates[0].schedule);
  Codec other(std::make_shared<const Bundle>(bundle), {.threads = 1});
  expect_error(Result::kBundleCorrupt, "no array 'synthesis'", [&] { other.prepare(1, true); });
}

TEST(Codec, RowsMayLieApart) {
  const Bytes data = read_bytes(kGolden / "chelsea_r0.rdc");
  const Image packed = decode(codec(), data);
  const std::size_t row_bytes = std::size_t{3} * packed.about.size.width, stride = row_bytes + 13;
  Bytes rows(stride * packed.about.size.height, 0xee);
  codec().decode(data, [&](Size) { return PixelRows{rows.data(), stride}; }, {});
  for (std::size_t row = 0; row < packed.about.size.height; ++row) {
    const auto* at = rows.data() + row * stride;
    EXPECT_TRUE(std::equal(at, at + row_bytes, packed.pixels.data() + row * row_bytes));
    EXPECT_EQ(at[row_bytes], 0xee);
  }
}

TEST(Codec, TheSeedDecidesTheNoiseAndTheChecksumIsTheDefault) {
  const Image usual = decode(codec(), coffee());
  EXPECT_EQ(decode(codec(), coffee(), {.seed = parse(coffee(), {}).checksum}).pixels, usual.pixels);
  EXPECT_NE(decode(codec(), coffee(), {.seed = 1}).pixels, usual.pixels);
}

TEST(Codec, SharpnessOneIsUnguidedAndOthersDiffer) {
  const Image usual = decode(codec(), coffee());
  EXPECT_LE(largest_difference(decode(codec(), coffee(), {.sharpness = 1.0000001}).pixels, usual.pixels), 1);
  EXPECT_NE(decode(codec(), coffee(), {.sharpness = 0.0}).pixels, usual.pixels);
}

TEST(Codec, StepsMustBeAScheduleOfTheBundle) {
  EXPECT_NE(decode(codec(), coffee(), {.steps = 5}).pixels, decode(codec(), coffee(), {.steps = 2}).pixels);
  expect_error(Result::kInvalidArgument, "3", [] { decode(codec(), coffee(), {.steps = 3}); });
}

TEST(Codec, RatesThatAreNotGuidedTakeSharpnessOneOnly) {
  Bundle bundle = *golden_bundle();
  bundle.rates[0].is_guided = false;
  Codec other(std::make_shared<const Bundle>(bundle), {.threads = 1});
  EXPECT_EQ(decode(other, coffee()).pixels, decode(codec(), coffee()).pixels);
  EXPECT_NO_THROW(decode(other, coffee(), {.sharpness = 2, .preview = true}));
  expect_error(Result::kInvalidArgument, "rate 0 of bundle", [&] { decode(other, coffee(), {.sharpness = 2}); });
}

TEST(Codec, SharpnessOutOfRangeIsRefused) {
  for (const double sharpness : {-1.0, std::nan(""), HUGE_VAL}) {
    expect_error(Result::kInvalidArgument, "sharpness", [&] { decode(codec(), coffee(), {.sharpness = sharpness}); });
  }
}

TEST(Codec, ProgressIsToldInOrderAndEndsWithAllPartsDone) {
  std::vector<std::pair<Part, unsigned>> told;
  unsigned parts = 0;
  decode(codec(), coffee(), {.progress = [&](Part part, unsigned done, unsigned total) {
           if (told.empty() || told.back() != std::pair(part, done)) told.emplace_back(part, done);
           parts = total;
           return true;
         }});
  const std::vector<std::pair<Part, unsigned>> expected = {{Part::kEntropy, 0}, {Part::kSynthesis, 1},
                                                           {Part::kDenoise, 2}, {Part::kDenoise, 3},
                                                           {Part::kVae, 4},     {Part::kDone, 5}};
  EXPECT_EQ(told, expected);
  EXPECT_EQ(parts, 5U);
}

/// Returns a file of no more than a header, of the golden bundle's first rate.
Bytes empty_file(std::uint32_t side) {
  testing::FileParts parts;
  const ModelId id = golden_bundle()->rates[0].model_id;
  parts.start = {0x89, 'R', 'D', 'C', 1, 0, id[0], id[1], id[2], id[3], 0};
  parts.width = parts.height = testing::varint(side);
  parts.z = parts.y = {};
  return parts.file();
}

TEST(Codec, ProgressIsAskedWithinSlicesOfLargeImages) {
  const auto asked = [](std::uint32_t side, unsigned most) {
    unsigned calls = 0;
    expect_error(Result::kCancelled, "cancelled", [&] {
      decode(codec(), empty_file(side),
             {.progress = [&](Part part, unsigned, unsigned) { return part == Part::kEntropy && calls++ < most; }});
    });
    return calls;
  };
  const unsigned slices = asked(64, 1000), large = asked(4096, 1000);
  EXPECT_GT(large, slices + 3);
  EXPECT_EQ(large, asked(4096, 1000)) << "it is counted, not timed";
  EXPECT_EQ(asked(4096, large - 1), large);
}

TEST(Codec, FileOf21BytesIsRefusedByItsMemory) {
  const Bytes data = empty_file(8192);
  EXPECT_EQ(data.size(), 21U);
  Codec bounded(golden_bundle(), {.threads = 1, .limits = {.max_memory_bytes = 500U << 20}});
  expect_error(Result::kLimitExceeded, "max_memory_bytes", [&] { decode(bounded, data, {}); });
}

TEST(Codec, CancelEndsTheDecodeAtAnyPart) {
  for (const Part last : {Part::kEntropy, Part::kSynthesis, Part::kDenoise, Part::kVae, Part::kDone}) {
    expect_error(Result::kCancelled, "cancelled", [&] {
      decode(codec(), coffee(), {.progress = [&](Part part, unsigned, unsigned) { return part != last; }});
    });
  }
}

TEST(Codec, PreviewLoadsNeitherDenoiserNorControl) {
  const testing::TemporaryFolder folder;
  fs::copy(kGolden / "bundle", folder.path() / "bundle");
  Codec other(std::make_shared<const Bundle>(read_bundle(folder.path() / "bundle")), {.threads = 1});
  fs::remove(folder.path() / "bundle/unet_step.onnx");
  fs::remove(folder.path() / "bundle/control_r0.onnx");
  const Image preview = decode(other, coffee(), {.preview = true});
  EXPECT_EQ(preview.pixels, decode(codec(), coffee(), {.preview = true}).pixels);
  EXPECT_NE(preview.pixels, decode(codec(), coffee()).pixels);
  expect_error(Result::kBundleCorrupt, "", [&] { decode(other, coffee()); });
}

TEST(Codec, CutFilesDecodeOnlyWhenAsked) {
  const Bytes data = read_bytes(kGolden / "astronaut_r0.rdc");
  const Bytes cut(data.begin(), data.end() - 100);
  expect_error(Result::kTruncated, "", [&] { decode(codec(), cut); });
  const Image image = decode(codec(), cut, {.allow_partial = true});
  EXPECT_EQ(image.about.missing_bytes, 100U);
  EXPECT_LT(image.about.complete_slices, image.about.n_slices);
  const Bytes without_checksum(data.begin(), data.end() - 4);
  const Image whole = decode(codec(), without_checksum, {.allow_partial = true});
  EXPECT_EQ(whole.about.complete_slices, whole.about.n_slices);
  EXPECT_EQ(whole.pixels, decode(codec(), data).pixels);
}

TEST(Codec, DamagedGraphsAreBundleErrorsAndAreNotKept) {
  const testing::TemporaryFolder folder;
  fs::copy(kGolden / "bundle", folder.path() / "bundle");
  const fs::path graph = folder.path() / "bundle/vae_decoder.onnx";
  const Bytes original = read_bytes(graph);
  Codec verifying(std::make_shared<const Bundle>(read_bundle(folder.path() / "bundle")), {.threads = 1});
  Codec other(std::make_shared<const Bundle>(read_bundle(folder.path() / "bundle", false)), {.threads = 1});
  write_bytes(graph, {});
  expect_error(Result::kBundleCorrupt, "vae_decoder.onnx: has 0 bytes", [&] { decode(other, coffee()); });
  write_bytes(graph, Bytes(original.size(), ' '));
  expect_error(Result::kBundleCorrupt, "vae_decoder.onnx: SHA-256", [&] { decode(verifying, coffee()); });
  expect_error(Result::kBundleCorrupt, "vae_decoder.onnx: not a graph", [&] { decode(other, coffee()); });
  // Another graph, made as long by its documentation, field 6.
  Bytes longer = read_bytes(kGolden / "bundle/synthesis_r0.onnx");
  const std::size_t missing = original.size() - longer.size() - 4;
  for (const std::size_t byte :
       {std::size_t{6 << 3 | 2}, missing % 128 + 128, missing / 128 % 128 + 128, missing >> 14})
    longer.push_back(static_cast<std::uint8_t>(byte));
  longer.resize(original.size(), ' ');
  write_bytes(graph, longer);
  expect_error(Result::kBundleCorrupt, "z_0", [&] { decode(other, coffee()); });
  write_bytes(graph, original);
  EXPECT_EQ(decode(other, coffee()).pixels, decode(codec(), coffee()).pixels);
  EXPECT_EQ(decode(verifying, coffee()).pixels, decode(codec(), coffee()).pixels);
}

TEST(Codec, AnotherBundlesEntropyModelIsFound) {
  const testing::TemporaryFolder folder;
  fs::copy(kGolden / "bundle", folder.path() / "bundle");
  Codec verifying(std::make_shared<const Bundle>(read_bundle(folder.path() / "bundle")), {.threads = 1});
  Codec other(std::make_shared<const Bundle>(read_bundle(folder.path() / "bundle", false)), {.threads = 1});
  fs::copy_file(kGolden / "bundle/entropy_r1.npz", folder.path() / "bundle/entropy_r0.npz",
                fs::copy_options::overwrite_existing);
  expect_error(Result::kBundleCorrupt, "SHA-256", [&] { decode(verifying, coffee()); });
  expect_error(Result::kBundleCorrupt, "this is model", [&] { decode(other, coffee()); });
}

TEST(Codec, ManyThreadsMayUseOne) {
  Codec shared(golden_bundle(), {.threads = 2});
  const Bytes expected = decode(codec(), coffee()).pixels;
  std::vector<Bytes> found(6);
  std::vector<std::thread> threads;
  for (Bytes& pixels : found) threads.emplace_back([&] { pixels = decode(shared, coffee()).pixels; });
  for (std::thread& thread : threads) thread.join();
  for (const Bytes& pixels : found) EXPECT_LE(largest_difference(pixels, expected), 1);
}

TEST(Codec, UnknownOptionsAreRefused) {
  expect_error(Result::kInvalidArgument, "backend", [] { Codec(golden_bundle(), {.backend = "gpu"}); });
  expect_error(Result::kInvalidArgument, "precision", [] { Codec(golden_bundle(), {.precision = "fp8"}); });
  expect_error(Result::kInvalidArgument, "tile_px", [] { Codec(golden_bundle(), {.tile_px = 100}); });
  expect_error(Result::kBackendUnavailable, "int8", [] { Codec(golden_bundle(), {.precision = "int8"}); });
}

TEST(Codec, MemoryAboveTheCeilingIsRefused) {
  Limits limits;
  limits.max_memory_bytes = 1000;
  Codec small(golden_bundle(), {.threads = 1, .limits = limits});
  expect_error(Result::kLimitExceeded, "", [&] { decode(small, coffee()); });
}

TEST(Codec, PrepareLoadsEverything) {
  Codec fresh(golden_bundle(), {.threads = 1});
  fresh.prepare(1);
  expect_error(Result::kInvalidArgument, "rate", [&] { fresh.prepare(9); });
}

}  // namespace
}  // namespace rdeic
