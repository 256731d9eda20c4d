#include "npy.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cinttypes>
#include <optional>
#include <string_view>

#include "input_limits.h"
#include "status.h"

namespace rdeic {

namespace {

static_assert(std::endian::native == std::endian::little,
              "arrays are little-endian, and are used as they lie in the file");

constexpr std::array<std::uint8_t, 6> kMagic = {0x93, 'N', 'U', 'M', 'P', 'Y'};

struct TypeName {
  std::string_view descr;
  DType dtype;
};
constexpr std::array<TypeName, 6> kTypes = {{{"|u1", DType::kUint8},
                                             {"|i1", DType::kInt8},
                                             {"<u2", DType::kUint16},
                                             {"<i4", DType::kInt32},
                                             {"<i8", DType::kInt64},
                                             {"<f4", DType::kFloat32}}};

/// Reads the Python dictionary that is the header: three known keys, each once.
class Dictionary {
 public:
  Dictionary(std::string_view text, const std::string& place) : text_(text), place_(place) {}

  NpyHeader parse() {
    NpyHeader header;
    bool has_descr = false, has_order = false, has_shape = false;
    expect('{');
    while (!accept('}')) {
      const std::string_view key = single_quoted();
      expect(':');
      if (key == "descr" && !has_descr) {
        header.dtype = dtype();
        has_descr = true;
      } else if (key == "fortran_order" && !has_order) {
        fortran_order_ = boolean();
        has_order = true;
      } else if (key == "shape" && !has_shape) {
        header.shape = shape();
        has_shape = true;
      } else {
        malformed();
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (at_ != text_.size() || !has_descr || !has_order || !has_shape) malformed();
    if (fortran_order_ && header.shape.size() > 1)
      fail(Result::kBundleCorrupt, "%s: in Fortran order, should be in C order", place_.c_str());
    return header;
  }

 private:
  [[noreturn]] void malformed() const {
    fail(Result::kBundleCorrupt, "%s: not the header of an array, at character %zu of %s", place_.c_str(), at_,
         printable(std::string(text_)).c_str());
  }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }

  bool accept(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  void expect(char c) {
    if (!accept(c)) malformed();
  }

  bool accept_word(std::string_view word) {
    skip_space();
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  std::string_view single_quoted() {
    expect('\'');
    const std::size_t end = text_.find('\'', at_);
    if (end == std::string_view::npos) malformed();
    const std::string_view result = text_.substr(at_, end - at_);
    at_ = end + 1;
    return result;
  }

  DType dtype() {
    const std::string_view descr = single_quoted();
    const auto* const found =
        std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeName& type) { return type.descr == descr; });
    if (found == kTypes.end())
      fail(Result::kBundleCorrupt, "%s: elements of type %s, which no array of a bundle has", place_.c_str(),
           printable(std::string(descr)).c_str());
    return found->dtype;
  }

  bool boolean() {
    if (accept_word("True")) return true;
    if (!accept_word("False")) malformed();
    return false;
  }

  std::vector<std::uint64_t> shape() {
    std::vector<std::uint64_t> result;
    expect('(');
    while (!accept(')')) {
      skip_space();
      std::uint64_t side = 0;
      const char* const first = text_.data() + at_;
      const auto [end, error] = std::from_chars(first, text_.data() + text_.size(), side);
      if (error != std::errc{} || result.size() == kMaxArrayRank) malformed();
      at_ += static_cast<std::size_t>(end - first);
      result.push_back(side);
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    return result;
  }

  std::string_view text_;
  const std::string& place_;
  std::size_t at_ = 0;
  bool fortran_order_ = false;
};

}  // namespace

NpyHeader parse_npy_header(std::span<const std::uint8_t> data, const std::string& place) {
  constexpr std::size_t kVersionAt = kMagic.size();
  constexpr std::size_t kLengthAt = kVersionAt + 2;
  if (data.size() < kLengthAt + 4 || !std::equal(kMagic.begin(), kMagic.end(), data.begin()) || data[kVersionAt] < 1 ||
      data[kVersionAt] > 3)
    fail(Result::kBundleCorrupt, "%s: not an .npy file of version 1 to 3", place.c_str());
  const std::size_t length_bytes = data[kVersionAt] == 1 ? 2 : 4;
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < length_bytes; ++i) length |= std::uint64_t{data[kLengthAt + i]} << (8 * i);
  const std::size_t text_at = kLengthAt + length_bytes;
  if (length > kMaxArrayHeaderBytes || length > data.size() - text_at)
    fail(Result::kBundleCorrupt, "%s: its header should have %" PRIu64 " bytes, %zu are there and %zu allowed",
         place.c_str(), length, data.size() - text_at, kMaxArrayHeaderBytes);
  const auto text_bytes = static_cast<std::size_t>(length);
  NpyHeader header = Dictionary({reinterpret_cast<const char*>(data.data()) + text_at, text_bytes}, place).parse();
  header.data_at = text_at + text_bytes;
  header.data_bytes = dtype_bytes(header.dtype);
  for (const std::uint64_t side : header.shape) {
    if (side != 0 && header.data_bytes > kMaxArraysBytes / side)
      fail(Result::kBundleCorrupt, "%s: more than %" PRIu64 " bytes of elements", place.c_str(), kMaxArraysBytes);
    header.data_bytes *= side;
  }
  return header;
}

}  // namespace rdeic
