#pragma once

// The .rdc container, version 1: bytes -> header and sections (docs/format.md is the specification).
//
//   89 52 44 43 | version | flags | model id | rate | width | height | z_bytes | y_bytes | [metadata_bytes]
//       4            1        1        4        1     ------------------ varints ----------------------
//   z section | y section | [metadata section] | CRC-32C
//                                                  4
//
// Structure is checked first, front to back, so that a message can say where a file breaks off; then the checksum; then
// the metadata is inflated. What sections z and y hold is the business of entropy/.

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "input_limits.h"

namespace rdeic {

using ModelId = std::array<std::uint8_t, 4>;

/// What must be known before the sections can be decoded.
struct Header {
  Size size;                // of the source image
  ModelId model_id{};       // of the entropy model, networks and tables
  std::uint8_t rate = 0;    // index of the rate in its bundle
  bool z_is_plain = false;  // section z holds indices of fixed width instead of range-coded ones
};

/// What is kept of the source file beside its pixels; empty: nothing.
struct Metadata {
  std::vector<std::uint8_t> icc;   // profile of the RGB samples
  std::vector<std::uint8_t> exif;  // a TIFF structure, from its byte-order mark on
};

/// A file whose structure and checksum have been found right; its sections are still coded.
struct File {
  Header header;
  std::span<const std::uint8_t> z;    // sections are views of the bytes given to `parse`
  std::span<const std::uint8_t> y;    // of a file that is cut short, its beginning
  Metadata metadata;                  // empty where its section is not whole
  std::uint32_t checksum = 0;         // CRC-32C of all bytes before it, or, of a cut file, of those that are there
  std::uint64_t missing_bytes = 0;    // how many were cut off; more than 0 only with `allow_partial`
  std::uint64_t missing_y_bytes = 0;  // how many of them were of the y section
};

/// Returns header and sections of a file, having made checks 1 to 15 of docs/format.md. With `allow_partial`, returns
/// what is there of a file that ends too early, but after its z section. Throws Error with the result that the failed
/// check gives.
File parse(std::span<const std::uint8_t> data, const Limits& limits, bool allow_partial = false);

}  // namespace rdeic
