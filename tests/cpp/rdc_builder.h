#pragma once

// Makes .rdc files for tests, good ones and bad ones (docs/format.md, "Layout").

#include <zlib.h>

#include <cstdint>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "crc32c.h"

namespace rdeic::testing {

using Bytes = std::vector<std::uint8_t>;

inline Bytes varint(std::uint64_t value) {
  Bytes bytes;
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<std::uint8_t>(value | 0x80));
  bytes.push_back(static_cast<std::uint8_t>(value));
  return bytes;
}

inline Bytes& operator+=(Bytes& bytes, const Bytes& more) {
  bytes.insert(bytes.end(), more.begin(), more.end());
  return bytes;
}

/// Returns the bytes with their checksum behind them.
inline Bytes sealed(Bytes bytes) {
  const std::uint32_t crc = crc32c(bytes);
  for (unsigned i = 0; i < 4; ++i) bytes.push_back(static_cast<std::uint8_t>(crc >> (8 * i)));
  return bytes;
}

/// Returns the bytes with their last four made to fit, as an attacker would write them.
inline Bytes resealed(Bytes bytes) {
  bytes.resize(bytes.size() - 4);
  return sealed(std::move(bytes));
}

inline Bytes deflated(const Bytes& data) {
  uLongf length = compressBound(static_cast<uLong>(data.size()));
  Bytes result(length);
  compress2(result.data(), &length, data.data(), static_cast<uLong>(data.size()), 9);
  result.resize(length);
  return result;
}

inline Bytes record(std::uint8_t tag, const Bytes& data) {
  Bytes result{tag};
  result += varint(data.size());
  result += data;
  return result;
}

/// The parts of a file, to be changed before `file` puts them together. As it is, the example of docs/format.md.
struct FileParts {
  Bytes start = {0x89, 'R', 'D', 'C', 1, 2, 1, 2, 3, 4, 1};  // up to the rate; byte 5 are the flags
  Bytes width = varint(768);
  Bytes height = varint(512);
  Bytes z = {0xaa, 0xbb};
  Bytes y = {0x11, 0x22, 0x33};
  bool has_metadata = false;
  Bytes metadata;

  Bytes file() const {
    Bytes bytes = start;
    if (has_metadata) bytes[5] |= 1;
    bytes += width;
    bytes += height;
    bytes += varint(z.size());
    bytes += varint(y.size());
    if (has_metadata) bytes += varint(metadata.size());
    bytes += z;
    bytes += y;
    if (has_metadata) bytes += metadata;
    return sealed(std::move(bytes));
  }
};

inline FileParts with_metadata(const Bytes& records) {
  FileParts parts;
  parts.has_metadata = true;
  parts.metadata = deflated(records);
  return parts;
}

inline Bytes read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot open " + path);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

}  // namespace rdeic::testing
