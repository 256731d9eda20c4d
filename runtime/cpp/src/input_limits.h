#pragma once

// Every ceiling on untrusted input, each with its reason.
//
// A file of thirty bytes can announce an image of any size. What it says is held against these limits, and against the
// bytes that are there, before anything is allocated for it. (The file is not named limits.h, as GCC's include_next
// then takes it for the C library's.)

#include <cstddef>
#include <cstdint>

namespace rdeic {

/// Height and width in pixels.
struct Size {
  std::uint32_t height = 0;
  std::uint32_t width = 0;

  bool operator==(const Size&) const = default;
};

/// Ceilings that a caller may change (docs/format.md, "Limits").
struct Limits {
  /// Height times width. Decoding takes memory in proportion, whatever the length of the file.
  std::uint64_t max_pixels = std::uint64_t{1} << 26;
  /// Height, and width. An image is padded to a multiple of the model's, so one that is a pixel wide and very long
  /// would take many times the memory that its pixels say; no more fits in a JPEG.
  std::uint32_t max_side_px = 65'535;
  /// Of an .rdc file, which is read whole.
  std::uint64_t max_file_bytes = std::uint64_t{1} << 29;
  /// Of a metadata section, inflated. A few kilobytes of zlib can become gigabytes.
  std::uint64_t max_metadata_bytes = std::uint64_t{1} << 22;
  /// Of what one decode holds in proportion to the image, as memory_estimate.h counts it; 0 for no ceiling. Full-size
  /// models stay under it at max_pixels.
  std::uint64_t max_memory_bytes = std::uint64_t{1} << 32;

  /// Throws Error(kLimitExceeded) if a side or the number of pixels is over its limit; `place` begins the message.
  void check_size(Size size, const char* place) const;
};

/// Of records in a metadata section, of which there are two. Two million empty ones inflate from four kilobytes.
inline constexpr std::size_t kMaxMetadataRecords = 1024;
/// Of a bundle.json. One of a full-size model has about 20 kB; a megabyte stops a wrong or hostile file before it is
/// parsed.
inline constexpr std::uint64_t kMaxManifestBytes = std::uint64_t{1} << 20;
/// Of a path in it (docs/bundle.md, "Checks"). Some systems follow four times as many; few files need a tenth.
inline constexpr std::size_t kMaxPathBytes = 1024;
/// Of objects and arrays within each other in a bundle.json. There are 5 levels, but for what is free.
inline constexpr std::size_t kMaxJsonDepth = 64;
/// Of an ONNX file: a protobuf message has less than 2 GiB.
inline constexpr std::uint64_t kMaxOnnxBytes = (std::uint64_t{1} << 31) - 1;
/// Of fields of all messages in it that are walked; the graphs of the embedded bundle have about 5,000.
inline constexpr std::size_t kMaxOnnxFields = std::size_t{1} << 20;
/// Of messages within each other: a subgraph is three levels, and libraries stop at 100.
inline constexpr unsigned kMaxOnnxDepth = 64;
/// Of dimensions of a weight that lies in another file.
inline constexpr std::size_t kMaxOnnxRank = 8;
/// Of an .npz file's arrays together. The entropy model of a full-size rate takes about 60 MB.
inline constexpr std::uint64_t kMaxArraysBytes = std::uint64_t{1} << 30;
/// Of arrays in an .npz file. An entropy model of ten slices has about 400.
inline constexpr std::size_t kMaxArrays = 65'536;
/// Of the name of one; those of an entropy model have up to 30 characters.
inline constexpr std::size_t kMaxArrayNameBytes = 256;
/// Of dimensions of an array: what the model id's canonical form needs at most is 4.
inline constexpr std::size_t kMaxArrayRank = 8;
/// Of the text before an array's elements; numpy writes 118 bytes for the ones there are.
inline constexpr std::size_t kMaxArrayHeaderBytes = 4096;
/// Times that an array may be longer than it is compressed: no deflate stream grows more.
inline constexpr std::uint64_t kMaxDeflateRatio = 1032;

}  // namespace rdeic
