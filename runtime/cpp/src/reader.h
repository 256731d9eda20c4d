#pragma once

// A bounded reader: takes fields off the front of some bytes, never past their end, and knows where it is for messages.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "status.h"

namespace rdeic {

inline constexpr const char* kFetchAgain = "The file is cut short; fetch it again.";
inline constexpr const char* kNoEncoder = "No encoder writes this; the file is damaged or made by a faulty program.";

class Reader {
 public:
  /// `data` must outlive the reader and what it returns.
  /// `what` follows places in messages, like " of the inflated metadata".
  /// `short_result` and `advice` are of the error when the data end too early.
  explicit Reader(std::span<const std::uint8_t> data, const char* what = "", Result short_result = Result::kTruncated,
                  const char* advice = kFetchAgain)
      : data_(data), what_(what), short_result_(short_result), advice_(advice) {}

  std::size_t at() const { return at_; }
  std::size_t left() const { return data_.size() - at_; }
  std::string place(const char* name, std::size_t at) const;

  /// Returns the next bytes, after having checked that they are there.
  std::span<const std::uint8_t> take(std::uint64_t n_bytes, const char* name);
  std::uint8_t u8(const char* name) { return take(1, name)[0]; }
  /// Returns a little-endian number of 4 bytes.
  std::uint32_t u32(const char* name);
  /// Returns a little-endian base-128 number: 7 bits a byte, the high bit set in all but the last.
  std::uint32_t varint(const char* name);

 private:
  [[noreturn]] void malformed(const char* name, std::size_t start, const char* problem) const;

  std::span<const std::uint8_t> data_;
  std::size_t at_ = 0;
  const char* what_;
  Result short_result_;
  const char* advice_;
};

}  // namespace rdeic
