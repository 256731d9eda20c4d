#include "reader.h"

#include <cinttypes>

namespace rdeic {

namespace {

constexpr unsigned kVarintMaxBytes = 5;

}  // namespace

std::string Reader::place(const char* name, std::size_t at) const { return text("%s at byte %zu%s", name, at, what_); }

std::span<const std::uint8_t> Reader::take(std::uint64_t n_bytes, const char* name) {
  if (n_bytes > left())
    fail(short_result_, "%s: should have %" PRIu64 " bytes, %zu are left. %s", place(name, at_).c_str(), n_bytes,
         left(), advice_);
  const std::size_t start = at_;
  at_ += static_cast<std::size_t>(n_bytes);
  return data_.subspan(start, static_cast<std::size_t>(n_bytes));
}

std::uint32_t Reader::u32(const char* name) {
  const std::span<const std::uint8_t> bytes = take(4, name);
  std::uint32_t value = 0;
  for (unsigned i = 0; i < 4; ++i) value |= std::uint32_t{bytes[i]} << (8 * i);
  return value;
}

std::uint32_t Reader::varint(const char* name) {
  const std::size_t start = at_;
  std::uint64_t value = 0;
  for (unsigned position = 0; position < kVarintMaxBytes; ++position) {
    const std::uint8_t byte = u8(name);
    value |= std::uint64_t{byte & 0x7fU} << (7 * position);
    if (byte < 0x80) {
      if (byte == 0 && position > 0) malformed(name, start, "a number in more bytes than it needs");
      if (value >> 32) malformed(name, start, "a number of more than 32 bits");
      return static_cast<std::uint32_t>(value);
    }
  }
  malformed(name, start, "a number of more than 5 bytes");
}

void Reader::malformed(const char* name, std::size_t start, const char* problem) const {
  fail(Result::kBitstream, "%s: %s. %s", place(name, start).c_str(), problem, kNoEncoder);
}

}  // namespace rdeic
