#include <unzip.h>

#include <algorithm>
#include <array>
#include <new>

#include "input_limits.h"
#include "zip_reader.h"

namespace rdeic {
namespace {

constexpr unsigned kEncrypted = 1;  // flag of a member

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

/// `status`: minizip's, which for want of memory is zlib's or that it cannot tell why.
bool is_ok(int status) {
  if (status == Z_MEM_ERROR || status == UNZ_INTERNALERROR) throw std::bad_alloc();
  return status == UNZ_OK;
}

}  // namespace

struct ZipReader::State {
  struct Close {
    void operator()(void* zip) const { unzClose(zip); }
  };

  explicit State(std::span<const std::uint8_t> content) : stream{content} {
    zlib_filefunc64_def functions = stream_functions(&stream);
    zip.reset(unzOpen2_64("", &functions));
  }

  Stream stream;
  std::unique_ptr<void, Close> zip;
  bool has_begun = false;
};

ZipReader::ZipReader(std::span<const std::uint8_t> content) : state_(std::make_unique<State>(content)) {}

ZipReader::~ZipReader() = default;

ZipReader::Status ZipReader::next(ZipMember& member) {
  void* const zip = state_->zip.get();
  if (zip == nullptr) return Status::kNoZip;
  const int status = state_->has_begun ? unzGoToNextFile(zip) : unzGoToFirstFile(zip);
  state_->has_begun = true;
  if (status == UNZ_END_OF_LIST_OF_FILE) return Status::kEnd;
  if (status != UNZ_OK) return Status::kDamaged;
  unz_file_info64 info{};
  std::array<char, kMaxArrayNameBytes + 1> name{};
  if (unzGetCurrentFileInfo64(zip, &info, name.data(), kMaxArrayNameBytes, nullptr, 0, nullptr, 0) != UNZ_OK ||
      info.size_filename > kMaxArrayNameBytes)
    return Status::kDamaged;
  // minizip would take what it cannot decompress, or decrypt, as it is.
  const bool is_known = info.compression_method == 0 || info.compression_method == Z_DEFLATED;
  member = {name.data(), info.compressed_size, info.uncompressed_size, is_known && (info.flag & kEncrypted) == 0};
  return Status::kOk;
}

bool ZipReader::open() { return is_ok(unzOpenCurrentFile(state_->zip.get())); }

bool ZipReader::read(std::span<std::byte> target) {
  constexpr std::size_t kMost = std::size_t{1} << 30;  // minizip counts in int
  while (!target.empty()) {
    const auto most = static_cast<unsigned>(std::min(target.size(), kMost));
    const int got = unzReadCurrentFile(state_->zip.get(), target.data(), most);
    if (got <= 0) return got < 0 && is_ok(got);
    target = target.subspan(static_cast<std::size_t>(got));
  }
  return true;
}

bool ZipReader::close() { return is_ok(unzCloseCurrentFile(state_->zip.get())); }

}  // namespace rdeic
