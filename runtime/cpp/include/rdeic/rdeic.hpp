// rdeic.hpp: a C++20 wrapper of rdeic.h, which documents each call and thread safety.
//
//   rdeic::Decoder decoder{rdeic::Bundle{}};
//   rdeic::Image image = decoder.decode(bytes);
#ifndef RDEIC_RDEIC_HPP
#define RDEIC_RDEIC_HPP

#if !defined(__cpp_exceptions) && !defined(_CPPUNWIND)
#error "rdeic.hpp reports errors as exceptions, which are disabled here: use rdeic.h, which needs none"
#endif

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>

#include "rdeic/rdeic.h"

namespace rdeic {
inline namespace v0 {

/// Thrown by everything here that can fail.
class Error : public std::runtime_error {
 public:
  Error(rdeic_result result, const char* message)
      : std::runtime_error(message && *message ? message : rdeic_result_text(result)), result_(result) {}
  rdeic_result result() const { return result_; }

 private:
  rdeic_result result_;
};

namespace detail {

template <auto destroy>
struct Destroy {
  template <typename T>
  void operator()(T* object) const {
    destroy(object);
  }
};

/// Calls a C function whose last argument is an rdeic_error, and throws it on failure.
template <typename Function, typename... Arguments>
void call(Function function, Arguments... arguments) {
  rdeic_error error{};
  const rdeic_result result = function(arguments..., &error);
  if (result != RDEIC_RESULT_OK) throw Error(result, error.message);
}

}  // namespace detail

/// Limits on what files may request.
struct Limits : rdeic_limits {
  Limits() : rdeic_limits{} { rdeic_limits_init(this, sizeof(rdeic_limits)); }
};

/// Returns the header of a file, after all checks that need no bundle.
inline rdeic_info read_info(std::span<const std::uint8_t> data, const Limits& limits = {}) {
  rdeic_info info;
  detail::call(rdeic_read_info, data.data(), data.size(), static_cast<const rdeic_limits*>(&limits), &info);
  return info;
}

/// A model. Copies share it.
class Bundle {
 public:
  /// Opens a bundle by folder or name, by default "tiny-2". `flags`: RDEIC_BUNDLE_NO_VERIFY.
  explicit Bundle(const std::optional<std::string>& source = std::nullopt, std::uint32_t flags = 0) {
    rdeic_bundle* bundle = nullptr;
    detail::call(rdeic_bundle_open, source ? source->c_str() : nullptr, flags, &bundle);
    bundle_.reset(bundle, rdeic_bundle_destroy);
  }

  /// Opens the installed bundle that a file was encoded with.
  static Bundle of_file(std::span<const std::uint8_t> data, std::uint32_t flags = 0, const Limits& limits = {}) {
    rdeic_bundle* bundle = nullptr;
    detail::call(rdeic_bundle_open_for, data.data(), data.size(), static_cast<const rdeic_limits*>(&limits), flags,
                 &bundle);
    return Bundle(bundle);
  }

  std::string name() const { return rdeic_bundle_name(get()); }
  std::string folder() const { return rdeic_bundle_folder(get()); }
  std::string licence() const { return rdeic_bundle_licence(get()); }
  std::uint32_t rate_count() const { return rdeic_bundle_rate_count(get()); }
  /// The label in the result lives as long as the bundle.
  rdeic_rate rate(std::uint32_t index) const {
    rdeic_rate rate;
    detail::call(rdeic_bundle_rate, get(), index, &rate);
    return rate;
  }
  const rdeic_bundle* get() const { return bundle_.get(); }

 private:
  explicit Bundle(rdeic_bundle* bundle) : bundle_(bundle, rdeic_bundle_destroy) {}

  std::shared_ptr<rdeic_bundle> bundle_;
};

/// A decoded image.
class Image {
 public:
  explicit Image(rdeic_image* image) : image_(image) {}

  std::uint32_t width() const { return image_->width; }
  std::uint32_t height() const { return image_->height; }
  /// Rows from top to bottom of R, G, B, without gaps.
  std::span<const std::uint8_t> pixels() const { return {image_->pixels, image_->stride * image_->height}; }
  std::span<const std::uint8_t> row(std::uint32_t y) const {
    return pixels().subspan(std::size_t{y} * image_->stride, std::size_t{3} * image_->width);
  }
  std::span<const std::uint8_t> icc() const { return {image_->icc, image_->icc_bytes}; }
  std::span<const std::uint8_t> exif() const { return {image_->exif, image_->exif_bytes}; }
  /// The other fields, such as the number of missing bytes of a truncated file.
  const rdeic_image& get() const { return *image_; }

 private:
  std::unique_ptr<rdeic_image, detail::Destroy<rdeic_image_destroy>> image_;
};

/// How a bundle is run.
struct DecoderOptions {
  std::string backend = "cpu";
  std::string precision = "auto";
  std::uint32_t threads = 0;
  std::uint32_t tile_px = 1024;
  Limits limits{};
};

/// How one file is decoded.
struct DecodeOptions {
  double sharpness = 1.0;
  std::optional<std::uint64_t> seed{};
  std::uint32_t steps = 0;
  bool preview = false;
  bool allow_partial = false;
  /// Called before each part; returning false cancels. An exception that it throws is rethrown by the decode.
  std::function<bool(rdeic_stage stage, std::uint32_t done, std::uint32_t total)> progress{};
};

/// A bundle on a backend.
class Decoder {
 public:
  explicit Decoder(const Bundle& bundle, const DecoderOptions& options = {}) {
    rdeic_decoder_options given;
    rdeic_decoder_options_init(&given, sizeof given);
    given.backend = options.backend.c_str();
    given.precision = options.precision.c_str();
    given.threads = options.threads;
    given.tile_px = options.tile_px;
    given.limits = &options.limits;
    rdeic_decoder* decoder = nullptr;
    detail::call(rdeic_decoder_create, bundle.get(), static_cast<const rdeic_decoder_options*>(&given), &decoder);
    decoder_.reset(decoder);
  }

  /// Loads what a rate needs, so that its first decode is as quick as the next.
  void prepare(std::uint32_t rate) { detail::call(rdeic_decoder_prepare, decoder_.get(), rate); }

  Image decode(std::span<const std::uint8_t> data, const DecodeOptions& options = {}) {
    rdeic_image* image = nullptr;
    with(options, [&](const rdeic_decode_options* given) {
      detail::call(rdeic_decode, decoder_.get(), data.data(), data.size(), given, &image);
    });
    return Image(image);
  }

  /// Decodes into rows of R, G, B that lie `stride` bytes apart; 0 for 3 * width.
  void decode_into(std::span<const std::uint8_t> data, std::span<std::uint8_t> pixels, std::size_t stride = 0,
                   const DecodeOptions& options = {}) {
    if (stride == 0) stride = std::size_t{3} * read_info(data).width;
    with(options, [&](const rdeic_decode_options* given) {
      detail::call(rdeic_decode_into, decoder_.get(), data.data(), data.size(), given, pixels.data(), pixels.size(),
                   stride);
    });
  }

  rdeic_decoder* get() const { return decoder_.get(); }

 private:
  struct Callback {
    const DecodeOptions& options;
    std::exception_ptr thrown;

    static int run(void* user, rdeic_stage stage, std::uint32_t done, std::uint32_t total) {
      auto& self = *static_cast<Callback*>(user);
      try {
        return self.options.progress(stage, done, total) ? 0 : 1;
      } catch (...) {
        self.thrown = std::current_exception();  // which must not pass through C
        return 1;
      }
    }
  };

  template <typename Body>
  static void with(const DecodeOptions& options, Body&& body) {
    Callback callback{options, nullptr};
    rdeic_decode_options given;
    rdeic_decode_options_init(&given, sizeof given);
    given.sharpness = options.sharpness;
    given.seed = options.seed.value_or(0);
    given.has_seed = options.seed.has_value();
    given.steps = options.steps;
    given.preview = options.preview;
    given.allow_partial = options.allow_partial;
    if (options.progress) {
      given.progress = Callback::run;
      given.user = &callback;
    }
    try {
      body(&given);
    } catch (const Error&) {
      if (callback.thrown) std::rethrow_exception(callback.thrown);
      throw;
    }
  }

  std::unique_ptr<rdeic_decoder, detail::Destroy<rdeic_decoder_destroy>> decoder_;
};

}  // namespace v0
}  // namespace rdeic

#endif  // RDEIC_RDEIC_HPP
