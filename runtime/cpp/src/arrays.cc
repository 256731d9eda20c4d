#include "arrays.h"

#include <algorithm>
#include <array>
#include <cinttypes>
#include <string_view>
#include <utility>

#include "input_limits.h"
#include "npy.h"
#include "status.h"
#include "zip_reader.h"

namespace rdeic {

namespace {

constexpr const char* kHint = "Get the bundle again, or export it again";
constexpr std::string_view kSuffix = ".npy";

/// An .npz file, and what its members may still take.
class Archive {
 public:
  Archive(std::span<const std::uint8_t> content, std::string name)
      : name_(std::move(name)), zip_(content), unclaimed_bytes_(content.size()) {}

  std::map<std::string, Array> read() {
    std::map<std::string, Array> arrays;
    ZipMember member;
    ZipReader::Status status = zip_.next(member);
    for (; status == ZipReader::Status::kOk; status = zip_.next(member)) {
      if (arrays.size() == kMaxArrays) corrupt(text("more than %zu arrays", kMaxArrays));
      auto [name, array] = read_member(member);
      const std::string shown = printable(name);
      if (!arrays.emplace(std::move(name), std::move(array)).second)
        corrupt(text("array '%s' comes twice", shown.c_str()));
    }
    if (status == ZipReader::Status::kNoZip) corrupt("not a readable .npz file");
    if (status == ZipReader::Status::kDamaged) corrupt("not a readable .npz file: its directory is damaged");
    return arrays;
  }

 private:
  [[noreturn]] void corrupt(const std::string& problem) const {
    fail(Result::kBundleCorrupt, "%s: %s. %s", name_.c_str(), problem.c_str(), kHint);
  }

  std::pair<std::string, Array> read_member(const ZipMember& member) {
    std::string name = member.name;
    if (name.ends_with(kSuffix)) name.resize(name.size() - kSuffix.size());
    const std::string place = text("%s: array '%s'", name_.c_str(), printable(name).c_str());

    if (!member.is_readable) fail(Result::kBundleCorrupt, "%s: neither stored nor deflated. %s", place.c_str(), kHint);
    // What the directory says is believed only as far as the file could hold it, and no two members lie in one place.
    if (member.compressed_bytes > unclaimed_bytes_ || member.bytes / kMaxDeflateRatio > member.compressed_bytes ||
        member.bytes > kMaxArraysBytes - bytes_)
      fail(Result::kBundleCorrupt, "%s: announces %" PRIu64 " bytes, which cannot be or are too many. %s",
           place.c_str(), member.bytes, kHint);
    unclaimed_bytes_ -= member.compressed_bytes;
    bytes_ += member.bytes;

    if (!zip_.open()) fail_member(place);
    std::array<std::uint8_t, kMaxArrayHeaderBytes + 12> start{};
    const auto start_bytes = static_cast<std::size_t>(std::min<std::uint64_t>(start.size(), member.bytes));
    read_exactly(std::as_writable_bytes(std::span(start).first(start_bytes)), place);
    const NpyHeader header = parse_npy_header(std::span(start).first(start_bytes), place);
    if (header.data_at + header.data_bytes != member.bytes)
      fail(Result::kBundleCorrupt, "%s: has %" PRIu64 " bytes, should have %" PRIu64 ". %s", place.c_str(),
           member.bytes, header.data_at + header.data_bytes, kHint);

    Array array{header.dtype, header.shape, std::vector<std::byte>(static_cast<std::size_t>(header.data_bytes))};
    const std::size_t there = start_bytes - header.data_at;
    std::transform(start.begin() + static_cast<std::ptrdiff_t>(header.data_at),
                   start.begin() + static_cast<std::ptrdiff_t>(start_bytes), array.data.begin(),
                   [](std::uint8_t byte) { return std::byte{byte}; });
    read_exactly(std::span(array.data).subspan(there), place);
    if (!zip_.close()) fail_member(place);
    return {std::move(name), std::move(array)};
  }

  [[noreturn]] static void fail_member(const std::string& place) {
    fail(Result::kBundleCorrupt, "%s: cannot be unpacked. %s", place.c_str(), kHint);
  }

  void read_exactly(std::span<std::byte> target, const std::string& place) {
    if (!zip_.read(target)) fail_member(place);
  }

  std::string name_;
  ZipReader zip_;
  std::uint64_t unclaimed_bytes_;  // of the file, which no member has taken
  std::uint64_t bytes_ = 0;        // of the members read, unpacked
};

std::string shape_text(std::span<const std::uint64_t> shape) {
  std::string result = "[";
  for (const std::uint64_t side : shape) {
    if (result.size() > 1) result += ", ";
    result += side == kAnyLength ? "n" : std::to_string(side);
  }
  return result + "]";
}

}  // namespace

std::string Array::description() const { return dtype_name(dtype) + (" " + shape_text(shape)); }

Arrays Arrays::read(std::span<const std::uint8_t> content, const std::string& path, const std::string& what) {
  std::map<std::string, Array> arrays = Archive(content, path).read();
  return Arrays(std::move(arrays), what.empty() ? path : what);
}

const std::vector<std::uint64_t>& Arrays::shape(const std::string& name) const {
  const auto found = arrays_.find(name);
  if (found == arrays_.end()) fail(Result::kBundleCorrupt, "%s: no array '%s'. %s", what_.c_str(), name.c_str(), kHint);
  return found->second.shape;
}

const Array& Arrays::find(const std::string& name, DType dtype, std::span<const std::uint64_t> shape) const {
  const std::string wanted = std::string(dtype_name(dtype)) + " " + shape_text(shape);
  const auto found = arrays_.find(name);
  if (found == arrays_.end())
    fail(Result::kBundleCorrupt, "%s: no array '%s', which should be %s. %s", what_.c_str(), name.c_str(),
         wanted.c_str(), kHint);
  const Array& array = found->second;
  const bool fits = std::equal(array.shape.begin(), array.shape.end(), shape.begin(), shape.end(),
                               [](std::uint64_t side, std::uint64_t expected) {
                                 return side >= 1 && (expected == kAnyLength || side == expected);
                               });
  if (array.dtype != dtype || !fits)
    fail(Result::kBundleCorrupt, "%s: array '%s' is %s, should be %s. %s", what_.c_str(), name.c_str(),
         array.description().c_str(), wanted.c_str(), kHint);
  return array;
}

}  // namespace rdeic
