#include <zlib.h>

#include <algorithm>
#include <array>
#include <memory>
#include <new>

#include "inflate.h"

namespace rdeic {
namespace {

struct InflateEnd {
  void operator()(z_stream* stream) const { inflateEnd(stream); }
};

}  // namespace

Inflated inflate_zlib(std::span<const std::uint8_t> input, std::uint64_t limit_bytes) {
  using End = Inflated::End;
  z_stream stream{};
  if (inflateInit(&stream) != Z_OK) throw std::bad_alloc();
  const std::unique_ptr<z_stream, InflateEnd> guard(&stream);
  // zlib takes a pointer to non-const, which it does not write through; sections are under 2^32 bytes.
  stream.next_in = const_cast<Bytef*>(input.data());
  stream.avail_in = static_cast<uInt>(input.size());

  Inflated result;
  std::array<std::uint8_t, 16384> block;
  for (;;) {
    // A byte over the limit is enough to know; what lies beyond is not looked at.
    const std::uint64_t room = limit_bytes - result.data.size() + (limit_bytes < UINT64_MAX ? 1 : 0);
    stream.next_out = block.data();
    stream.avail_out = static_cast<uInt>(std::min<std::uint64_t>(block.size(), room));
    const uInt offered = stream.avail_out;
    const int status = inflate(&stream, Z_NO_FLUSH);
    if (status == Z_MEM_ERROR) throw std::bad_alloc();
    if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
      return {End::kDamaged, {}, 0, stream.msg ? stream.msg : "it needs a dictionary"};
    const uInt made = offered - stream.avail_out;
    result.data.insert(result.data.end(), block.begin(), block.begin() + static_cast<std::ptrdiff_t>(made));
    if (result.data.size() > limit_bytes) return {End::kTooLong, {}, 0, {}};
    if (status == Z_STREAM_END) break;
    if (made == 0 && stream.avail_in == 0) return {End::kUnending, {}, 0, {}};
  }
  result.end = End::kWhole;
  result.left_bytes = stream.avail_in;
  return result;
}

}  // namespace rdeic
