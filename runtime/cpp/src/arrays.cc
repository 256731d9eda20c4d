#include "arrays.h"

#include <unzip.h>

#include <algorithm>
#include <array>
#include <cinttypes>
#include <memory>

#include "input_limits.h"
#include "npy.h"
#include "status.h"

namespace rdeic {

namespace {

constexpr const char* kHint = "Get the bundle again, or export it again";

// Flag of a member.
constexpr unsigned kEncrypted = 1;
constexpr std::string_view kSuffix = ".npy";

/// Bytes that minizip reads as a file.
struct Stream {
  std::span<const std::uint8_t> content;
  std::uint64_t at = 0;
};

/// Returns minizip's way to read a Stream, which it gets as `opaque`.
zlib_filefunc64_def stream_functions(Stream* stream) {
  zlib_filefunc64_def functions{};
  functions.opaque = stream;
  functions.zopen64_file = [](void* opaque, const void*, int) { return opaque; };
  functions.zread_file = [](void* opaque, void*, void* target, uLong bytes) {
    Stream& from = *static_cast<Stream*>(opaque);
    const std::uint64_t left = from.content.size() - std::min<std::uint64_t>(from.at, from.content.size());
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(bytes, left));
    if (count > 0) std::copy_n(from.content.data() + from.at, count, static_cast<std::uint8_t*>(target));
    from.at += count;
    return static_cast<uLong>(count);
  };
  functions.ztell64_file = [](void* opaque, void*) { return ZPOS64_T{static_cast<Stream*>(opaque)->at}; };
  functions.zseek64_file = [](void* opaque, void*, ZPOS64_T offset, int origin) {
    Stream& in = *static_cast<Stream*>(opaque);
    const std::uint64_t from = origin == ZLIB_FILEFUNC_SEEK_SET   ? 0
                               : origin == ZLIB_FILEFUNC_SEEK_CUR ? in.at
                                                                  : in.content.size();
    if (offset > in.content.size() - std::min<std::uint64_t>(from, in.content.size())) return -1L;
    in.at = from + offset;
    return 0L;
  };
  functions.zclose_file = [](void*, void*) { return 0; };
  functions.zerror_file = [](void*, void*) { return 0; };
  return functions;
}

/// An .npz file, and what its members may still take.
class Archive {
 public:
  Archive(std::span<const std::uint8_t> content, std::string name)
      : name_(std::move(name)), stream_{content}, unclaimed_bytes_(content.size()) {
    zlib_filefunc64_def functions = stream_functions(&stream_);
    zip_.reset(unzOpen2_64("", &functions));
    if (!zip_) corrupt("not a readable .npz file");
  }

  std::map<std::string, Array> read() {
    std::map<std::string, Array> arrays;
    int status = unzGoToFirstFile(zip_.get());
    for (; status == UNZ_OK; status = unzGoToNextFile(zip_.get())) {
      if (arrays.size() == kMaxArrays) corrupt(text("more than %zu arrays", kMaxArrays));
      auto [name, array] = read_member();
      const std::string shown = printable(name);
      if (!arrays.emplace(std::move(name), std::move(array)).second)
        corrupt(text("array '%s' comes twice", shown.c_str()));
    }
    if (status != UNZ_END_OF_LIST_OF_FILE) corrupt("not a readable .npz file: its directory is damaged");
    return arrays;
  }

 private:
  struct Close {
    void operator()(void* zip) const { unzClose(zip); }
  };

  [[noreturn]] void corrupt(const std::string& problem) const {
    fail(Result::kBundleCorrupt, "%s: %s. %s", name_.c_str(), problem.c_str(), kHint);
  }

  std::pair<std::string, Array> read_member() {
    unz_file_info64 info{};
    std::array<char, kMaxArrayNameBytes + 1> name_buffer{};
    if (unzGetCurrentFileInfo64(zip_.get(), &info, name_buffer.data(), kMaxArrayNameBytes, nullptr, 0, nullptr, 0) !=
            UNZ_OK ||
        info.size_filename > kMaxArrayNameBytes)
      corrupt("not a readable .npz file: its directory is damaged");
    std::string name(name_buffer.data());
    if (name.ends_with(kSuffix)) name.resize(name.size() - kSuffix.size());
    const std::string place = text("%s: array '%s'", name_.c_str(), printable(name).c_str());

    // minizip would take what it cannot decompress, or decrypt, as it is.
    if ((info.flag & kEncrypted) != 0 || (info.compression_method != 0 && info.compression_method != Z_DEFLATED))
      fail(Result::kBundleCorrupt, "%s: neither stored nor deflated. %s", place.c_str(), kHint);
    // What the directory says is believed only as far as the file could hold it, and no two members lie in one place.
    if (info.compressed_size > unclaimed_bytes_ || info.uncompressed_size / kMaxDeflateRatio > info.compressed_size ||
        info.uncompressed_size > kMaxArraysBytes - bytes_)
      fail(Result::kBundleCorrupt, "%s: announces %" PRIu64 " bytes, which cannot be or are too many. %s",
           place.c_str(), std::uint64_t{info.uncompressed_size}, kHint);
    unclaimed_bytes_ -= info.compressed_size;
    bytes_ += info.uncompressed_size;

    if (const int status = unzOpenCurrentFile(zip_.get()); status != UNZ_OK) fail_member(place, status);
    std::array<std::uint8_t, kMaxArrayHeaderBytes + 12> start{};
    const auto start_bytes = static_cast<std::size_t>(std::min<std::uint64_t>(start.size(), info.uncompressed_size));
    read_exactly(start.data(), start_bytes, place);
    const NpyHeader header = parse_npy_header(std::span(start).first(start_bytes), place);
    if (header.data_at + header.data_bytes != info.uncompressed_size)
      fail(Result::kBundleCorrupt, "%s: has %" PRIu64 " bytes, should have %" PRIu64 ". %s", place.c_str(),
           std::uint64_t{info.uncompressed_size}, header.data_at + header.data_bytes, kHint);

    Array array{header.dtype, header.shape, std::vector<std::byte>(static_cast<std::size_t>(header.data_bytes))};
    const std::size_t there = start_bytes - header.data_at;
    std::transform(start.begin() + static_cast<std::ptrdiff_t>(header.data_at),
                   start.begin() + static_cast<std::ptrdiff_t>(start_bytes), array.data.begin(),
                   [](std::uint8_t byte) { return std::byte{byte}; });
    read_exactly(array.data.data() + there, array.data.size() - there, place);
    // Which compares the CRC-32.
    if (const int status = unzCloseCurrentFile(zip_.get()); status != UNZ_OK) fail_member(place, status);
    return {std::move(name), std::move(array)};
  }

  /// `status`: minizip's, which for want of memory is zlib's or that it cannot tell why.
  [[noreturn]] void fail_member(const std::string& place, int status) const {
    if (status == Z_MEM_ERROR || status == UNZ_INTERNALERROR) throw std::bad_alloc();
    fail(Result::kBundleCorrupt, "%s: cannot be unpacked. %s", place.c_str(), kHint);
  }

  void read_exactly(void* target, std::size_t n_bytes, const std::string& place) {
    constexpr std::size_t kMost = std::size_t{1} << 30;  // minizip counts in int
    auto* at = static_cast<std::byte*>(target);
    while (n_bytes > 0) {
      const int got = unzReadCurrentFile(zip_.get(), at, static_cast<unsigned>(std::min(n_bytes, kMost)));
      if (got <= 0) fail_member(place, got);
      at += got;
      n_bytes -= static_cast<std::size_t>(got);
    }
  }

  std::string name_;
  Stream stream_;
  std::uint64_t unclaimed_bytes_;  // of the file, which no member so far takes
  std::uint64_t bytes_ = 0;        // of the members so far, unpacked
  std::unique_ptr<void, Close> zip_;
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

Arrays Arrays::read(const BundleFile& file, const std::string& what) {
  return read(file.read(), file.path.string(), what);
}

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
  const bool fits = std::ranges::equal(array.shape, shape, [](std::uint64_t side, std::uint64_t expected) {
    return side >= 1 && (expected == kAnyLength || side == expected);
  });
  if (array.dtype != dtype || !fits)
    fail(Result::kBundleCorrupt, "%s: array '%s' is %s, should be %s. %s", what_.c_str(), name.c_str(),
         array.description().c_str(), wanted.c_str(), kHint);
  return array;
}

}  // namespace rdeic
