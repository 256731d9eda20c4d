#pragma once

// Decompression of a zlib stream (RFC 1950). Natively inflate_zlib.cc, with zlib; in WebAssembly wasm/inflate_js.cc.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace rdeic {

/// What became of a stream.
struct Inflated {
  enum class End {
    kWhole,
    kTooLong,   // it holds more than was allowed
    kDamaged,   // `problem` says why
    kUnending,  // the data ends before the stream does
  };

  End end = End::kDamaged;
  std::vector<std::uint8_t> data;  // of a whole stream
  std::size_t left_bytes = 0;      // of the input, which follow a whole stream
  std::string problem;             // in zlib's words
};

/// Decompresses the stream that `input` begins with, to at most `limit_bytes`. Output grows by what the stream gives,
/// never by what somebody announced.
Inflated inflate_zlib(std::span<const std::uint8_t> input, std::uint64_t limit_bytes);

}  // namespace rdeic
