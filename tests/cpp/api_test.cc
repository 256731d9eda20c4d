// The library as its users see it: rdeic.h and rdeic.hpp, linked to nothing else.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <rdeic/rdeic.hpp>
#include <thread>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
// What its parent's threads hold looks leaked in a child of fork(), which has none of them.
static bool g_is_child = false;
extern "C" int __lsan_is_turned_off();  // NOLINT: the sanitizer's name
extern "C" int __lsan_is_turned_off() { return g_is_child ? 1 : 0; }
#endif

namespace {

using Bytes = std::vector<std::uint8_t>;

const std::string kGolden = RDEIC_SOURCE_DIR "/tests/golden/v1/";

Bytes read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot open " + path);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

class ApiTest : public ::testing::Test {
 protected:
  rdeic::Bundle bundle_{kGolden + "bundle"};
  Bytes data_ = read_file(kGolden + "chelsea_r0.rdc");
  rdeic_info info_ = rdeic::read_info(data_);
};

template <typename Body>
void expect_result(rdeic_result result, const std::string& words, Body&& body) {
  try {
    body();
    ADD_FAILURE() << "nothing was thrown; should be " << rdeic_result_text(result);
  } catch (const rdeic::Error& error) {
    EXPECT_EQ(error.result(), result) << error.what();
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }
}

TEST_F(ApiTest, InfoNeedsNoBundle) {
  EXPECT_EQ(info_.rate, 0U);
  EXPECT_GT(info_.width, 0U);
  EXPECT_GT(info_.y_bytes, 0U);
  EXPECT_LT(info_.z_bytes + info_.y_bytes, data_.size());
  EXPECT_EQ(std::memcmp(info_.model_id, bundle_.rate(0).model_id, 4), 0);
}

TEST_F(ApiTest, BundleTellsItsRates) {
  EXPECT_FALSE(bundle_.name().empty());
  EXPECT_FALSE(bundle_.licence().empty());
  ASSERT_EQ(bundle_.rate_count(), 2U);
  EXPECT_GT(bundle_.rate(1).steps, 0U);
  expect_result(RDEIC_RESULT_INVALID_ARGUMENT, "rate 2 is not one", [&] { (void)bundle_.rate(2); });
}

TEST_F(ApiTest, OpensTheInstalledBundleThatAFileWasMadeWith) {
  const std::filesystem::path golden = std::filesystem::path(kGolden).parent_path().parent_path();
  const Bytes other = read_file(golden / "v1-levels" / "coffee_r37.rdc");
  ASSERT_EQ(setenv("RDEIC_RT_BUNDLES", (golden / "v1-levels").c_str(), 1), 0);
  EXPECT_EQ(rdeic::Bundle::of_file(other).folder(), golden / "v1-levels" / "bundle");
  expect_result(RDEIC_RESULT_BUNDLE_MISMATCH, "at rate 0, which no installed bundle has; looked at ",
                [&] { (void)rdeic::Bundle::of_file(data_); });
  ASSERT_EQ(setenv("RDEIC_RT_BUNDLES", kGolden.c_str(), 1), 0);
  const rdeic::Bundle bundle = rdeic::Bundle::of_file(data_, RDEIC_BUNDLE_NO_VERIFY);
  EXPECT_EQ(bundle.folder(), bundle_.folder());
  EXPECT_EQ(rdeic::Decoder(bundle).decode(data_).width(), info_.width);
  EXPECT_EQ(rdeic::Bundle::of_file(std::span(data_).first(data_.size() - 6)).name(), bundle_.name());
  unsetenv("RDEIC_RT_BUNDLES");
  expect_result(RDEIC_RESULT_NOT_RDC, "", [] { (void)rdeic::Bundle::of_file(Bytes{'G', 'I', 'F', '8'}); });
  rdeic::Limits limits;
  limits.max_pixels = 100;
  expect_result(RDEIC_RESULT_LIMIT_EXCEEDED, "max_pixels", [&] { (void)rdeic::Bundle::of_file(data_, 0, limits); });
}

TEST_F(ApiTest, DecodesToAnImageAndTheSameIntoABuffer) {
  rdeic::Decoder decoder(bundle_);
  const rdeic::Image image = decoder.decode(data_);
  ASSERT_EQ(image.width(), info_.width);
  ASSERT_EQ(image.height(), info_.height);
  EXPECT_EQ(image.get().missing_bytes, 0U);

  const std::size_t row = std::size_t{3} * info_.width, stride = row + 5;
  Bytes pixels(stride * info_.height, 0xEE);
  decoder.decode_into(data_, std::span(pixels).first(pixels.size() - 5), stride);
  for (std::uint32_t y = 0; y < info_.height; ++y) {
    EXPECT_TRUE(std::ranges::equal(image.row(y), std::span(pixels).subspan(y * stride, row))) << "row " << y;
    for (std::size_t x = row; x < stride; ++x) EXPECT_EQ(pixels[y * stride + x], 0xEE) << "between rows, " << y;
  }
}

TEST_F(ApiTest, RefusesBuffersThatAreTooSmall) {
  rdeic::Decoder decoder(bundle_);
  const std::size_t row = std::size_t{3} * info_.width;
  Bytes pixels(row * info_.height);
  expect_result(RDEIC_RESULT_INVALID_ARGUMENT, "pixels has",
                [&] { decoder.decode_into(data_, std::span(pixels).first(pixels.size() - 1)); });
  expect_result(RDEIC_RESULT_INVALID_ARGUMENT, "pixels has", [&] { decoder.decode_into(data_, pixels, row - 1); });
  expect_result(RDEIC_RESULT_INVALID_ARGUMENT, "pixels has", [&] { decoder.decode_into(data_, pixels, SIZE_MAX); });
}

TEST_F(ApiTest, OptionsChangeTheImage) {
  rdeic::Decoder decoder(bundle_);
  const auto pixels = [&](const rdeic::DecodeOptions& options) {
    const rdeic::Image image = decoder.decode(data_, options);
    return Bytes(image.pixels().begin(), image.pixels().end());
  };
  const Bytes plain = pixels({});
  EXPECT_EQ(pixels({}), plain);
  EXPECT_EQ(pixels({.seed = info_.checksum}), plain);
  EXPECT_NE(pixels({.seed = 1}), plain);
  EXPECT_NE(pixels({.sharpness = 0.5}), plain);
  EXPECT_NE(pixels({.steps = bundle_.rate(1).steps}), plain);
  EXPECT_NE(pixels({.preview = true}), plain);
}

TEST_F(ApiTest, RefusesOptionsOutOfRange) {
  rdeic::Decoder decoder(bundle_);
  for (const double sharpness : {-1.0, std::nan(""), std::numeric_limits<double>::infinity()})
    expect_result(RDEIC_RESULT_INVALID_ARGUMENT, "sharpness",
                  [&] { (void)decoder.decode(data_, {.sharpness = sharpness}); });
  expect_result(RDEIC_RESULT_INVALID_ARGUMENT, "77 steps", [&] { (void)decoder.decode(data_, {.steps = 77}); });
  expect_result(RDEIC_RESULT_INVALID_ARGUMENT, "", [&] { rdeic::Decoder(bundle_, {.backend = "abacus"}); });
  expect_result(RDEIC_RESULT_INVALID_ARGUMENT, "", [&] { rdeic::Decoder(bundle_, {.precision = "fp3"}); });
  expect_result(RDEIC_RESULT_INVALID_ARGUMENT, "", [&] { rdeic::Decoder(bundle_, {.tile_px = 1}); });
  expect_result(RDEIC_RESULT_INVALID_ARGUMENT, "", [&] { decoder.prepare(9); });
}

TEST_F(ApiTest, SaysWhyABackendIsUnavailable) {
  for (const char* backend : {"cuda", "tensorrt-rtx"}) {
    try {
      rdeic::Decoder decoder(bundle_, {.backend = backend});
      decoder.prepare(0);
      EXPECT_TRUE(std::filesystem::exists("/dev/nvidiactl")) << backend << " runs, and there is no GPU";
      EXPECT_EQ(decoder.decode(data_).width(), info_.width);
    } catch (const rdeic::Error& error) {
      EXPECT_EQ(error.result(), RDEIC_RESULT_BACKEND_UNAVAILABLE) << error.what();
      EXPECT_NE(std::string(error.what()).find(backend), std::string::npos) << error.what();
    }
  }
}

TEST_F(ApiTest, TellsProgressAndCancels) {
  rdeic::Decoder decoder(bundle_);
  std::vector<rdeic_stage> stages;
  std::uint32_t last = 0, total = 0;
  (void)decoder.decode(data_, {.progress = [&](rdeic_stage stage, std::uint32_t done, std::uint32_t of) {
                         EXPECT_GE(done, last);
                         stages.push_back(stage);
                         last = done;
                         total = of;
                         return true;
                       }});
  EXPECT_EQ(stages.front(), RDEIC_STAGE_ENTROPY);
  EXPECT_EQ(stages.back(), RDEIC_STAGE_DONE);
  EXPECT_TRUE(std::ranges::is_sorted(stages));
  EXPECT_EQ(last, total);
  for (std::size_t n = 0; n + 1 < stages.size(); ++n) {
    std::size_t calls = 0;
    expect_result(RDEIC_RESULT_CANCELLED, "",
                  [&] { (void)decoder.decode(data_, {.progress = [&](auto...) { return calls++ < n; }}); });
    EXPECT_EQ(calls, n + 1) << "nothing is told after a cancel";
  }
}

TEST_F(ApiTest, WhatProgressThrowsComesOut) {
  rdeic::Decoder decoder(bundle_);
  EXPECT_THROW((void)decoder.decode(data_, {.progress = [](auto...) -> bool { throw std::out_of_range("mine"); }}),
               std::out_of_range);
}

TEST_F(ApiTest, LimitsAreHeld) {
  rdeic::Limits limits;
  EXPECT_EQ(limits.max_pixels, std::uint64_t{1} << 26);
  limits.max_pixels = 100;
  expect_result(RDEIC_RESULT_LIMIT_EXCEEDED, "max_pixels", [&] { (void)rdeic::read_info(data_, limits); });
  expect_result(RDEIC_RESULT_LIMIT_EXCEEDED, "max_pixels",
                [&] { (void)rdeic::Decoder(bundle_, {.limits = limits}).decode(data_); });
  limits = {};
  limits.max_memory_bytes = 1000;
  expect_result(RDEIC_RESULT_LIMIT_EXCEEDED, "max_memory_bytes",
                [&] { (void)rdeic::Decoder(bundle_, {.limits = limits}).decode(data_); });
}

TEST_F(ApiTest, DamagedFilesEndInTheirResults) {
  rdeic::Decoder decoder(bundle_);
  const auto decode = [&](Bytes data) { return [&decoder, data] { (void)decoder.decode(data); }; };
  expect_result(RDEIC_RESULT_TRUNCATED, "", decode({}));
  expect_result(RDEIC_RESULT_NOT_RDC, "", decode({'G', 'I', 'F', '8'}));
  expect_result(RDEIC_RESULT_TRUNCATED, "", decode(Bytes(data_.begin(), data_.end() - 5)));
  Bytes damaged = data_;
  damaged[damaged.size() / 2] ^= 1;
  expect_result(RDEIC_RESULT_CHECKSUM, "fetch it again", decode(damaged));
}

TEST_F(ApiTest, DecodesWhatIsThereOfACutFile) {
  rdeic::Decoder decoder(bundle_);
  const rdeic::Image image = decoder.decode(std::span(data_).first(data_.size() * 2 / 3), {.allow_partial = true});
  EXPECT_EQ(image.get().missing_bytes, data_.size() - data_.size() * 2 / 3);
  EXPECT_LT(image.get().complete_slices, image.get().n_slices);
  EXPECT_EQ(image.width(), info_.width);
}

TEST_F(ApiTest, DecoderOutlivesItsBundle) {
  std::optional<rdeic::Bundle> bundle(std::in_place, kGolden + "bundle");
  rdeic::Decoder decoder(*bundle);
  bundle.reset();
  EXPECT_EQ(decoder.decode(data_).width(), info_.width);
}

TEST_F(ApiTest, OneDecoderServesManyThreads) {
  rdeic::Decoder decoder(bundle_, {.threads = 1});
  const rdeic::Image expected = rdeic::Decoder(bundle_, {.threads = 1}).decode(data_);
  std::atomic<int> equal = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] { equal += std::ranges::equal(decoder.decode(data_).pixels(), expected.pixels()); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(equal, 4);
}

// A child of fork() has none of the threads that its parent's decoder works with.
TEST_F(ApiTest, ChildOfForkIsRefusedAndEndsAndMakesADecoderOfItsOwn) {
  const rdeic::DecoderOptions two_threads{.threads = 2};
  auto decoder = std::make_unique<rdeic::Decoder>(bundle_, two_threads);
  const rdeic::Image image = decoder->decode(data_);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(60);  // what waits for those threads waits for ever
#ifdef __SANITIZE_ADDRESS__
    g_is_child = true;
#endif
    int failures = 0;
    const auto refused = [&](auto&& use) {
      try {
        use();
        ++failures;
      } catch (const rdeic::Error& error) {
        failures += error.result() != RDEIC_RESULT_BACKEND || !std::strstr(error.what(), "Create one in each process");
      }
    };
    refused([&] { (void)decoder->decode(data_); });
    refused([&] { decoder->prepare(0); });
    decoder.reset();
    {
      rdeic::Decoder own(bundle_, two_threads);
      failures += !std::ranges::equal(own.decode(data_).pixels(), image.pixels());
    }
    std::exit(failures);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "ended by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_TRUE(std::ranges::equal(decoder->decode(data_).pixels(), image.pixels()));
}

TEST(ApiErrors, FirstFailureIsKept) {
  rdeic_error error{};
  rdeic_bundle* bundle = nullptr;
  rdeic_image* image = nullptr;
  EXPECT_EQ(rdeic_bundle_open("/none/at/all", 0, &bundle, &error), RDEIC_RESULT_BUNDLE_NOT_FOUND);
  EXPECT_EQ(bundle, nullptr);
  const std::string first = error.message;
  EXPECT_NE(first.find("/none/at/all"), std::string::npos);
  EXPECT_EQ(rdeic_decode(nullptr, nullptr, 0, nullptr, &image, &error), RDEIC_RESULT_INVALID_ARGUMENT);
  EXPECT_EQ(error.result, RDEIC_RESULT_BUNDLE_NOT_FOUND);
  EXPECT_EQ(error.message, first);
  rdeic_error_clear(&error);
  EXPECT_EQ(rdeic_decode(nullptr, nullptr, 0, nullptr, &image, &error), RDEIC_RESULT_INVALID_ARGUMENT);
  EXPECT_STREQ(error.message, "decoder is NULL");
}

TEST(ApiErrors, LongMessagesAreCutBetweenCharacters) {
  for (std::size_t padding = 0; padding < 2; ++padding) {
    std::string path = std::string(padding, 'x');
    for (int i = 0; i < 400; ++i) path += "\xc3\xa9";
    rdeic_error error{};
    rdeic_bundle* bundle = nullptr;
    EXPECT_EQ(rdeic_bundle_open(path.c_str(), 0, &bundle, &error), RDEIC_RESULT_BUNDLE_NOT_FOUND);
    const std::size_t length = std::strlen(error.message);
    ASSERT_LT(length, sizeof error.message);
    EXPECT_NE(static_cast<unsigned char>(error.message[length - 1]), 0xc3);
  }
}

TEST(ApiErrors, ArgumentsThatAreNullAreNamed) {
  rdeic_error error{};
  rdeic_info info;
  rdeic_bundle* bundle = nullptr;
  rdeic_decoder* decoder = nullptr;
  const auto expect_named = [&](rdeic_result result, const char* words) {
    EXPECT_EQ(result, RDEIC_RESULT_INVALID_ARGUMENT);
    EXPECT_STREQ(error.message, words);
    rdeic_error_clear(&error);
  };
  expect_named(rdeic_read_info(nullptr, 5, nullptr, &info, &error), "data is NULL");
  expect_named(rdeic_read_info(nullptr, 0, nullptr, nullptr, &error), "out is NULL");
  expect_named(rdeic_bundle_open(nullptr, 0, nullptr, &error), "out is NULL");
  expect_named(rdeic_bundle_open(nullptr, 8, &bundle, &error), "flags has bits that this library does not know");
  expect_named(rdeic_bundle_open_for(nullptr, 5, nullptr, 0, &bundle, &error), "data is NULL");
  expect_named(rdeic_bundle_open_for(nullptr, 0, nullptr, 0, nullptr, &error), "out is NULL");
  expect_named(rdeic_bundle_open_for(nullptr, 0, nullptr, 8, &bundle, &error),
               "flags has bits that this library does not know");
  expect_named(rdeic_decoder_create(nullptr, nullptr, &decoder, &error), "bundle is NULL");
  expect_named(rdeic_decoder_prepare(nullptr, 0, &error), "decoder is NULL");
  expect_named(rdeic_decode_into(nullptr, nullptr, 0, nullptr, nullptr, 0, 0, &error), "decoder is NULL");
  EXPECT_EQ(rdeic_read_info(nullptr, 5, nullptr, &info, nullptr), RDEIC_RESULT_INVALID_ARGUMENT);
  rdeic_bundle_destroy(nullptr);
  rdeic_decoder_destroy(nullptr);
  rdeic_image_destroy(nullptr);
  rdeic_error_clear(nullptr);
  EXPECT_EQ(rdeic_bundle_name(nullptr), nullptr);
  EXPECT_EQ(rdeic_bundle_rate_count(nullptr), 0U);
}

TEST(ApiErrors, StructuresOfOtherVersionsAreHandled) {
  // An older caller's structure, which ends after the first limit.
  struct {
    rdeic_limits limits;
    std::uint8_t after = 0xEE;
  } old;
  std::memset(&old.limits, 0xEE, sizeof old.limits);
  const std::size_t old_bytes = sizeof(std::size_t) + sizeof(std::uint64_t);
  rdeic_limits_init(&old.limits, old_bytes);
  EXPECT_EQ(old.limits.struct_bytes, old_bytes);
  EXPECT_EQ(old.limits.max_file_bytes, 0xEEEEEEEEEEEEEEEEU) << "not the caller's to write";
  const Bytes data = read_file(kGolden + "chelsea_r0.rdc");
  rdeic_info info;
  EXPECT_EQ(rdeic_read_info(data.data(), data.size(), &old.limits, &info, nullptr), RDEIC_RESULT_OK);

  // A later caller's, with fields that this library does not know.
  rdeic_limits later;
  rdeic_limits_init(&later, sizeof later);
  later.struct_bytes += 8;
  rdeic_error error{};
  EXPECT_EQ(rdeic_read_info(data.data(), data.size(), &later, &info, &error), RDEIC_RESULT_INVALID_ARGUMENT);
  EXPECT_NE(std::string(error.message).find("rdeic_limits.struct_bytes"), std::string::npos);
  later.struct_bytes = 0;  // never initialised
  EXPECT_EQ(rdeic_read_info(data.data(), data.size(), &later, &info, nullptr), RDEIC_RESULT_INVALID_ARGUMENT);
}

TEST(ApiErrors, EveryResultHasAText) {
  for (const int result : {0, 10, 20, 21, 30, 40, 41, 42, 43, 44, 45, 50, 51, 52, 53, 60, 61, 62})
    EXPECT_STRNE(rdeic_result_text(static_cast<rdeic_result>(result)), "unknown result") << result;
  EXPECT_STREQ(rdeic_result_text(static_cast<rdeic_result>(63)), "unknown result");
}

}  // namespace
