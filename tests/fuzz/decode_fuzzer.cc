// Any bytes decode to an image or to an Error, with the golden bundle and within a small ceiling on pixels.
//
// An input is a file as it is, or, as checksum and model id would stop nearly all, if it begins with "F": a byte of
// options, width, height, a byte that is the length of the z section, the z section, and the y section.

#include <cstdlib>
#include <memory>
#include <vector>

#include "codec.h"
#include "crc32c.h"
#include "status.h"

namespace {

using Bytes = std::vector<std::uint8_t>;

rdeic::Codec& codec() {
  static rdeic::Codec made = [] {
    rdeic::CodecOptions options;
    options.threads = 1;
    options.limits.max_pixels = 1 << 14;
    options.limits.max_side_px = 512;
    options.limits.max_metadata_bytes = 1 << 16;
    const char* folder = RDEIC_SOURCE_DIR "/tests/golden/v1/bundle";
    return rdeic::Codec(std::make_shared<const rdeic::Bundle>(rdeic::read_bundle(folder)), options);
  }();
  return made;
}

void put_varint(Bytes& out, std::size_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<std::uint8_t>(value | 0x80));
  out.push_back(static_cast<std::uint8_t>(value));
}

Bytes framed(std::span<const std::uint8_t> data) {
  const std::uint8_t options = data[1];
  const std::size_t z_bytes = std::min<std::size_t>(data[4], data.size() - 5);
  const std::uint8_t rate = options & 1;
  Bytes file = {0x89, 0x52, 0x44, 0x43, 1, static_cast<std::uint8_t>(options & 2)};
  const rdeic::ModelId id = codec().bundle().rates[rate].model_id;
  file.insert(file.end(), id.begin(), id.end());
  file.push_back(rate);
  put_varint(file, data[2] + 1U);
  put_varint(file, data[3] + 1U);
  put_varint(file, z_bytes);
  put_varint(file, data.size() - 5 - z_bytes);
  file.insert(file.end(), data.begin() + 5, data.end());
  const std::uint32_t checksum = rdeic::crc32c(file);
  for (int shift = 0; shift < 32; shift += 8) file.push_back(static_cast<std::uint8_t>(checksum >> shift));
  if ((options & 4) != 0) file.resize(file.size() - std::min<std::size_t>(file.size(), 4U + (options >> 4)));
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  const std::span input(data, bytes);
  const bool frame = bytes >= 5 && data[0] == 'F';
  const Bytes file = frame ? framed(input) : Bytes(input.begin(), input.end());
  rdeic::DecodeOptions options;
  options.preview = bytes > 1 && (data[1] & 8) != 0;
  options.allow_partial = bytes > 1 && (data[1] & 4) != 0;
  try {
    Bytes image;
    codec().decode(
        file,
        [&](rdeic::Size size) {
          image.resize(std::size_t{3} * size.width * size.height);
          return rdeic::PixelRows{image.data(), std::size_t{3} * size.width};
        },
        options);
  } catch (const rdeic::Error& error) {
    if (error.result() == rdeic::Result::kInternal || error.result() == rdeic::Result::kBackend) __builtin_trap();
  }
  return 0;
}
