// The C functions: arguments checked, exceptions turned into results, objects handed over. What they do is in codec.h.

#include <algorithm>
#include <cinttypes>
#include <cstring>
#include <filesystem>
#include <memory>
#include <new>
#include <span>
#include <string>

#include "bundle.h"
#include "codec.h"
#include "container.h"
#include "rdeic/rdeic.h"
#include "status.h"

struct rdeic_bundle {
  std::shared_ptr<const rdeic::Bundle> bundle;
  std::string folder;
};

struct rdeic_decoder {
  rdeic::Codec codec;
};

namespace {

using rdeic::Result;

#define RDEIC_SAME(c_name, name) \
  static_assert(static_cast<int>(RDEIC_RESULT_##c_name) == static_cast<int>(Result::name))
RDEIC_SAME(OK, kOk);
RDEIC_SAME(INTERNAL, kInternal);
RDEIC_SAME(INVALID_ARGUMENT, kInvalidArgument);
RDEIC_SAME(CANCELLED, kCancelled);
RDEIC_SAME(IO, kIo);
RDEIC_SAME(NOT_RDC, kNotRdc);
RDEIC_SAME(TRUNCATED, kTruncated);
RDEIC_SAME(UNSUPPORTED_VERSION, kUnsupportedVersion);
RDEIC_SAME(LIMIT_EXCEEDED, kLimitExceeded);
RDEIC_SAME(CHECKSUM, kChecksum);
RDEIC_SAME(BITSTREAM, kBitstream);
RDEIC_SAME(BUNDLE, kBundle);
RDEIC_SAME(BUNDLE_NOT_FOUND, kBundleNotFound);
RDEIC_SAME(BUNDLE_CORRUPT, kBundleCorrupt);
RDEIC_SAME(BUNDLE_MISMATCH, kBundleMismatch);
RDEIC_SAME(BACKEND, kBackend);
RDEIC_SAME(BACKEND_UNAVAILABLE, kBackendUnavailable);
RDEIC_SAME(OUT_OF_MEMORY, kOutOfMemory);
#undef RDEIC_SAME
static_assert(sizeof(rdeic_info::model_id) == sizeof(rdeic::ModelId) &&
              sizeof(rdeic_rate::model_id) == sizeof(rdeic::ModelId));
static_assert(static_cast<int>(RDEIC_STAGE_DONE) == static_cast<int>(rdeic::Part::kDone));

/// An image with what its pointers point to.
struct Image : rdeic_image {
  std::unique_ptr<std::uint8_t[]> storage;
  rdeic::Metadata metadata;
};

/// Keeps the first failure: one that is there already is the reason of what came after it.
rdeic_result keep(rdeic_error* error, Result result, const char* message) noexcept {
  const auto code = static_cast<rdeic_result>(result);
  if (!error || error->result != RDEIC_RESULT_OK) return code;
  error->result = code;
  std::size_t length = std::min(std::strlen(message), sizeof error->message - 1);
  // A text that is cut must not end within a character of UTF-8.
  if (message[length] != '\0')
    while (length > 0 && (static_cast<unsigned char>(message[length]) & 0xC0) == 0x80) --length;
  std::transform(message, message + length, error->message,
                 [](char c) { return static_cast<unsigned char>(c) < 0x20 ? ' ' : c; });
  error->message[length] = '\0';
  return code;
}

/// Runs the body of a C function; nothing gets past it.
template <typename Body>
rdeic_result guarded(rdeic_error* error, Body&& body) noexcept {
  try {
    body();
    return RDEIC_RESULT_OK;
  } catch (const rdeic::Error& failure) {
    return keep(error, failure.result(), failure.what());
  } catch (const std::bad_alloc&) {
    return keep(error, Result::kOutOfMemory, "not enough memory");
  } catch (const std::filesystem::filesystem_error& failure) {
    return keep(error, Result::kIo, failure.what());
  } catch (const std::exception& failure) {
    return keep(error, Result::kInternal, failure.what());
  } catch (...) {
    return keep(error, Result::kInternal, "an unknown exception");
  }
}

void require(bool condition, const char* problem) {
  if (!condition) rdeic::fail(Result::kInvalidArgument, "%s", problem);
}

/// Sets what the caller's version of a structure has room for.
template <typename Options>
void initialise(Options* options, std::size_t struct_bytes, Options defaults) noexcept {
  if (!options || struct_bytes < sizeof options->struct_bytes) return;
  defaults.struct_bytes = struct_bytes;
  std::memset(static_cast<void*>(options), 0, struct_bytes);
  std::memcpy(static_cast<void*>(options), &defaults, std::min(struct_bytes, sizeof defaults));
}

/// Returns the caller's options, or the defaults: what the caller's version of the structure lacks keeps its default.
template <typename Options>
Options known_fields(const Options* given, void (*init)(Options*, std::size_t), const char* name) {
  Options options;
  init(&options, sizeof options);
  if (!given) return options;
  if (given->struct_bytes < sizeof options.struct_bytes || given->struct_bytes > sizeof options)
    rdeic::fail(
        Result::kInvalidArgument,
        "%s.struct_bytes is %zu, should be up to %zu: call %s_init first, and use a library not older than its header",
        name, given->struct_bytes, sizeof options, name);
  std::memcpy(&options, given, given->struct_bytes);
  return options;
}

rdeic::Limits limits_from(const rdeic_limits* given) {
  const rdeic_limits limits = known_fields(given, rdeic_limits_init, "rdeic_limits");
  rdeic::Limits result;
  result.max_pixels = limits.max_pixels;
  result.max_side_px = static_cast<std::uint32_t>(std::min<std::uint64_t>(limits.max_side_px, UINT32_MAX));
  result.max_file_bytes = limits.max_file_bytes;
  result.max_metadata_bytes = limits.max_metadata_bytes;
  result.max_memory_bytes = limits.max_memory_bytes;
  return result;
}

rdeic::DecodeOptions decode_options_from(const rdeic_decode_options* given) {
  const rdeic_decode_options options = known_fields(given, rdeic_decode_options_init, "rdeic_decode_options");
  rdeic::DecodeOptions result;
  result.sharpness = options.sharpness;
  if (options.has_seed) result.seed = options.seed;
  result.steps = options.steps;
  result.preview = options.preview != 0;
  result.allow_partial = options.allow_partial != 0;
  if (options.progress)
    result.progress = [progress = options.progress, user = options.user](rdeic::Part part, unsigned done,
                                                                         unsigned total) {
      return progress(user, static_cast<rdeic_stage>(part), done, total) == 0;
    };
  return result;
}

std::span<const std::uint8_t> bytes_from(const std::uint8_t* data, std::size_t data_bytes) {
  require(data || data_bytes == 0, "data is NULL");
  return {data, data_bytes};
}

/// Returns whether hashes are to be compared.
bool verify_from(std::uint32_t flags) {
  require((flags & ~std::uint32_t{RDEIC_BUNDLE_NO_VERIFY}) == 0, "flags has bits that this library does not know");
  return (flags & RDEIC_BUNDLE_NO_VERIFY) == 0;
}

rdeic_bundle* handed_over(rdeic::Bundle&& opened) {
  auto bundle = std::make_shared<const rdeic::Bundle>(std::move(opened));
  std::string folder = bundle->folder.string();
  return new rdeic_bundle{std::move(bundle), std::move(folder)};
}

}  // namespace

extern "C" {

void rdeic_error_clear(rdeic_error* error) {
  if (error) *error = rdeic_error{};
}

const char* rdeic_result_text(rdeic_result result) {
  switch (result) {
    case RDEIC_RESULT_OK:
      return "success";
    case RDEIC_RESULT_INTERNAL:
      return "a bug in librdeic";
    case RDEIC_RESULT_INVALID_ARGUMENT:
      return "invalid argument";
    case RDEIC_RESULT_CANCELLED:
      return "cancelled";
    case RDEIC_RESULT_IO:
      return "a file cannot be read";
    case RDEIC_RESULT_NOT_RDC:
      return "not an .rdc file";
    case RDEIC_RESULT_TRUNCATED:
      return "the file is cut short";
    case RDEIC_RESULT_UNSUPPORTED_VERSION:
      return "the file needs a later librdeic";
    case RDEIC_RESULT_LIMIT_EXCEEDED:
      return "over a limit";
    case RDEIC_RESULT_CHECKSUM:
      return "the file is damaged";
    case RDEIC_RESULT_BITSTREAM:
      return "the file holds what no encoder writes";
    case RDEIC_RESULT_BUNDLE:
      return "the bundle cannot be used";
    case RDEIC_RESULT_BUNDLE_NOT_FOUND:
      return "no such bundle";
    case RDEIC_RESULT_BUNDLE_CORRUPT:
      return "the bundle is damaged";
    case RDEIC_RESULT_BUNDLE_MISMATCH:
      return "the file needs another bundle";
    case RDEIC_RESULT_BACKEND:
      return "the inference library failed";
    case RDEIC_RESULT_BACKEND_UNAVAILABLE:
      return "the backend cannot run here";
    case RDEIC_RESULT_OUT_OF_MEMORY:
      return "not enough memory";
  }
  return "unknown result";
}

const char* rdeic_version(void) { return RDEIC_VERSION; }

void rdeic_limits_init(rdeic_limits* limits, size_t struct_bytes) {
  const rdeic::Limits known;
  rdeic_limits defaults{};
  defaults.max_pixels = known.max_pixels;
  defaults.max_file_bytes = known.max_file_bytes;
  defaults.max_metadata_bytes = known.max_metadata_bytes;
  defaults.max_memory_bytes = known.max_memory_bytes;
  defaults.max_side_px = known.max_side_px;
  initialise(limits, struct_bytes, defaults);
}

rdeic_result rdeic_read_info(const uint8_t* data, size_t data_bytes, const rdeic_limits* limits, rdeic_info* out,
                             rdeic_error* error) {
  if (out) *out = rdeic_info{};
  return guarded(error, [&] {
    require(out, "out is NULL");
    const rdeic::File file = rdeic::parse(bytes_from(data, data_bytes), limits_from(limits));
    out->width = file.header.size.width;
    out->height = file.header.size.height;
    out->rate = file.header.rate;
    std::memcpy(out->model_id, file.header.model_id.data(), sizeof out->model_id);
    out->checksum = file.checksum;
    out->z_bytes = file.z.size();
    out->y_bytes = file.y.size();
    out->icc_bytes = file.metadata.icc.size();
    out->exif_bytes = file.metadata.exif.size();
  });
}

rdeic_result rdeic_bundle_open(const char* source, uint32_t flags, rdeic_bundle** out, rdeic_error* error) {
  if (out) *out = nullptr;
  return guarded(error, [&] {
    require(out, "out is NULL");
    const bool verify = verify_from(flags);
    const std::filesystem::path folder = rdeic::find_bundle(source ? std::optional<std::string>(source) : std::nullopt);
    *out = handed_over(rdeic::read_bundle(folder, verify));
  });
}

rdeic_result rdeic_bundle_open_for(const uint8_t* data, size_t data_bytes, const rdeic_limits* limits, uint32_t flags,
                                   rdeic_bundle** out, rdeic_error* error) {
  if (out) *out = nullptr;
  return guarded(error, [&] {
    require(out, "out is NULL");
    const bool verify = verify_from(flags);
    const rdeic::File file = rdeic::parse(bytes_from(data, data_bytes), limits_from(limits), true);
    rdeic::Bundle found = rdeic::find_bundle_for(file.header);
    *out = handed_over(verify ? rdeic::read_bundle(found.folder) : std::move(found));
  });
}

void rdeic_bundle_destroy(rdeic_bundle* bundle) { delete bundle; }

const char* rdeic_bundle_name(const rdeic_bundle* bundle) { return bundle ? bundle->bundle->name.c_str() : nullptr; }

const char* rdeic_bundle_folder(const rdeic_bundle* bundle) { return bundle ? bundle->folder.c_str() : nullptr; }

const char* rdeic_bundle_licence(const rdeic_bundle* bundle) {
  return bundle ? bundle->bundle->licence.c_str() : nullptr;
}

uint32_t rdeic_bundle_rate_count(const rdeic_bundle* bundle) {
  return bundle ? static_cast<uint32_t>(bundle->bundle->rates.size()) : 0;
}

rdeic_result rdeic_bundle_rate(const rdeic_bundle* bundle, uint32_t index, rdeic_rate* out, rdeic_error* error) {
  if (out) *out = rdeic_rate{};
  return guarded(error, [&] {
    require(bundle, "bundle is NULL");
    require(out, "out is NULL");
    if (index >= bundle->bundle->rates.size())
      rdeic::fail(Result::kInvalidArgument, "rate %" PRIu32 " is not one of bundle '%s', which has %zu", index,
                  bundle->bundle->name.c_str(), bundle->bundle->rates.size());
    const rdeic::Rate& rate = bundle->bundle->rates[index];
    out->label = rate.label.c_str();
    out->bpp = rate.bpp;
    const rdeic::Schedule* const schedule = bundle->bundle->choose_schedule(rate, 0);
    out->steps = schedule == nullptr ? 1 : static_cast<std::uint32_t>(schedule->n_steps());
    std::memcpy(out->model_id, rate.model_id.data(), sizeof out->model_id);
  });
}

void rdeic_decoder_options_init(rdeic_decoder_options* options, size_t struct_bytes) {
  rdeic_decoder_options defaults{};
  defaults.backend = "cpu";
  defaults.precision = "auto";
  defaults.tile_px = rdeic::CodecOptions{}.tile_px;
  initialise(options, struct_bytes, defaults);
}

rdeic_result rdeic_decoder_create(const rdeic_bundle* bundle, const rdeic_decoder_options* options, rdeic_decoder** out,
                                  rdeic_error* error) {
  if (out) *out = nullptr;
  return guarded(error, [&] {
    require(bundle, "bundle is NULL");
    require(out, "out is NULL");
    const rdeic_decoder_options given = known_fields(options, rdeic_decoder_options_init, "rdeic_decoder_options");
    require(given.backend, "rdeic_decoder_options.backend is NULL");
    require(given.precision, "rdeic_decoder_options.precision is NULL");
    rdeic::CodecOptions opened;
    opened.backend = given.backend;
    opened.precision = given.precision;
    opened.threads = given.threads;
    opened.tile_px = given.tile_px;
    opened.limits = limits_from(given.limits);
    *out = new rdeic_decoder{rdeic::Codec(bundle->bundle, opened)};
  });
}

void rdeic_decoder_destroy(rdeic_decoder* decoder) { delete decoder; }

rdeic_result rdeic_decoder_prepare(rdeic_decoder* decoder, uint32_t rate, rdeic_error* error) {
  return guarded(error, [&] {
    require(decoder, "decoder is NULL");
    decoder->codec.prepare(rate);
  });
}

void rdeic_decode_options_init(rdeic_decode_options* options, size_t struct_bytes) {
  rdeic_decode_options defaults{};
  defaults.sharpness = rdeic::DecodeOptions{}.sharpness;
  initialise(options, struct_bytes, defaults);
}

rdeic_result rdeic_decode(rdeic_decoder* decoder, const uint8_t* data, size_t data_bytes,
                          const rdeic_decode_options* options, rdeic_image** out, rdeic_error* error) {
  if (out) *out = nullptr;
  return guarded(error, [&] {
    require(decoder, "decoder is NULL");
    require(out, "out is NULL");
    auto image = std::make_unique<Image>();
    const auto place = [&](rdeic::Size size) {
      image->stride = std::size_t{3} * size.width;
      image->storage = std::make_unique_for_overwrite<std::uint8_t[]>(image->stride * size.height);
      return rdeic::PixelRows{image->storage.get(), image->stride};
    };
    rdeic::Decoded decoded = decoder->codec.decode(bytes_from(data, data_bytes), place, decode_options_from(options));
    image->width = decoded.size.width;
    image->height = decoded.size.height;
    image->pixels = image->storage.get();
    image->metadata = std::move(decoded.metadata);
    const auto point_to = [](const std::vector<std::uint8_t>& from, const std::uint8_t*& first, std::size_t& n_bytes) {
      first = from.empty() ? nullptr : from.data();
      n_bytes = from.size();
    };
    point_to(image->metadata.icc, image->icc, image->icc_bytes);
    point_to(image->metadata.exif, image->exif, image->exif_bytes);
    image->missing_bytes = decoded.missing_bytes;
    image->complete_slices = decoded.complete_slices;
    image->n_slices = decoded.n_slices;
    *out = image.release();
  });
}

void rdeic_image_destroy(rdeic_image* image) { delete static_cast<Image*>(image); }

rdeic_result rdeic_decode_into(rdeic_decoder* decoder, const uint8_t* data, size_t data_bytes,
                               const rdeic_decode_options* options, uint8_t* pixels, size_t pixels_bytes, size_t stride,
                               rdeic_error* error) {
  return guarded(error, [&] {
    require(decoder, "decoder is NULL");
    require(pixels, "pixels is NULL");
    const auto place = [&](rdeic::Size size) {
      const std::uint64_t row = std::uint64_t{3} * size.width;
      // The division keeps (height - 1) * stride from overflowing.
      const bool fits = stride >= row && pixels_bytes >= row &&
                        (size.height == 1 || (pixels_bytes - row) / (size.height - 1) >= stride);
      if (!fits)
        rdeic::fail(Result::kInvalidArgument,
                    "pixels has %zu bytes in rows of %zu; %" PRIu32 "x%" PRIu32 " pixels take %" PRIu32
                    " rows of at least %" PRIu64,
                    pixels_bytes, stride, size.width, size.height, size.height, row);
      return rdeic::PixelRows{pixels, stride};
    };
    decoder->codec.decode(bytes_from(data, data_bytes), place, decode_options_from(options));
  });
}

}  // extern "C"
