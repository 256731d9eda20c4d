#include "zip_reader.h"

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "inflate_js.h"
#include "input_limits.h"

// The archive is read as minizip reads it, so that both builds accept the same: the last end of the directory counts,
// bytes before the archive are skipped, and a member's own header must agree with the directory.

namespace rdeic {
namespace {

constexpr std::uint32_t kEndSignature = 0x06054b50, kEnd64Signature = 0x06064b50, kLocatorSignature = 0x07064b50;
constexpr std::uint32_t kEntrySignature = 0x02014b50, kLocalSignature = 0x04034b50;
constexpr std::size_t kEntryBytes = 46, kLocalBytes = 30;
constexpr std::uint32_t kElsewhere = 0xffffffff;  // in place of a size that only the directory has
constexpr std::uint16_t kSizesFollow = 8, kEncrypted = 1;
constexpr std::uint16_t kStored = 0, kDeflated = 8;
constexpr std::uint16_t kTagSizes = 1;  // of an extra field

std::array<std::uint32_t, 256> crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t n = 0; n < table.size(); ++n) {
    table[n] = n;
    for (int bit = 0; bit < 8; ++bit) table[n] = (table[n] >> 1) ^ (table[n] & 1 ? 0xedb88320 : 0);
  }
  return table;
}

std::uint32_t crc32(std::span<const std::uint8_t> data) {
  static const std::array<std::uint32_t, 256> kTable = crc_table();
  std::uint32_t crc = 0xffffffff;
  for (const std::uint8_t byte : data) crc = (crc >> 8) ^ kTable[(crc ^ byte) & 0xff];
  return ~crc;
}

/// Numbers of an archive by their place, little-endian. Bytes beyond its end are as the one before, and 0 where there
/// is none, which is what minizip takes of an archive that is cut within its last numbers.
class Bytes {
 public:
  explicit Bytes(std::span<const std::uint8_t> all) : all_(all) {}

  std::uint64_t size() const { return all_.size(); }
  bool has(std::uint64_t at, std::uint64_t n_bytes) const { return at <= size() && n_bytes <= size() - at; }
  std::span<const std::uint8_t> part(std::uint64_t at, std::uint64_t n_bytes) const {
    return all_.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(n_bytes));
  }
  std::uint16_t u16(std::uint64_t at) const { return static_cast<std::uint16_t>(number(at, 2)); }
  std::uint32_t u32(std::uint64_t at) const { return static_cast<std::uint32_t>(number(at, 4)); }
  std::uint64_t u64(std::uint64_t at) const { return number(at, 8); }

 private:
  std::uint64_t number(std::uint64_t at, unsigned n_bytes) const {
    std::uint64_t value = 0;
    std::uint8_t byte = 0;
    for (unsigned i = 0; i < n_bytes; ++i) {
      if (has(at, i + 1)) byte = all_[static_cast<std::size_t>(at) + i];
      value |= std::uint64_t{byte} << 8 * i;
    }
    return value;
  }

  std::span<const std::uint8_t> all_;
};

/// Returns where the last of these signatures begins that no comment longer than there can be follows.
std::optional<std::uint64_t> find_last(const Bytes& bytes, std::uint32_t signature) {
  constexpr std::uint64_t kMost = 0xffff;
  const std::uint64_t first = bytes.size() - std::min(bytes.size(), kMost);
  for (std::uint64_t at = bytes.size();
       at-- > std::max<std::uint64_t>(first, 1);) {  // before the end there is something
    if (bytes.has(at, 4) && bytes.u32(at) == signature) return at;
  }
  return {};
}

/// Where the directory lies.
struct Directory {
  std::uint64_t at = 0, n_entries = 0;
  std::uint64_t before = 0;  // bytes before the archive, which its offsets do not count
};

std::optional<Directory> find_directory(const Bytes& bytes) {
  std::optional<std::uint64_t> end;
  std::uint64_t entries = 0, entries_here = 0, size = 0, offset = 0, disk = 0, directory_disk = 0;
  if (const auto locator = find_last(bytes, kLocatorSignature)) {
    const std::uint64_t at = bytes.u64(*locator + 8);
    if (bytes.u32(*locator + 4) == 0 && bytes.u32(*locator + 16) == 1 && bytes.u32(at) == kEnd64Signature) {
      end = at;
      disk = bytes.u32(at + 16), directory_disk = bytes.u32(at + 20);
      entries_here = bytes.u64(at + 24), entries = bytes.u64(at + 32);
      size = bytes.u64(at + 40), offset = bytes.u64(at + 48);
    }
  }
  if (!end) {
    end = find_last(bytes, kEndSignature);
    if (!end) return {};
    disk = bytes.u16(*end + 4), directory_disk = bytes.u16(*end + 6);
    entries_here = bytes.u16(*end + 8), entries = bytes.u16(*end + 10);
    size = bytes.u32(*end + 12), offset = bytes.u32(*end + 16);
  }
  if (entries != entries_here || disk != 0 || directory_disk != 0) return {};
  if (offset > *end || size > *end - offset) return {};
  const std::uint64_t before = *end - (offset + size);
  return Directory{before + offset, entries, before};
}

/// An entry of the directory.
struct Entry {
  std::uint16_t flags = 0, method = 0;
  std::uint32_t crc = 0;
  std::uint64_t compressed_bytes = 0, bytes = 0, local_at = 0;
  std::size_t name_bytes = 0;
};

}  // namespace

struct ZipReader::State {
  explicit State(std::span<const std::uint8_t> content) : bytes(content), directory(find_directory(bytes)) {}

  Bytes bytes;
  std::optional<Directory> directory;
  std::uint64_t next_at = 0, n_seen = 0;
  Entry entry;
  std::vector<std::uint8_t> inflated;
  std::span<const std::uint8_t> left;  // of the member that is open
  std::uint32_t crc = 0;
};

ZipReader::ZipReader(std::span<const std::uint8_t> content) : state_(std::make_unique<State>(content)) {}
ZipReader::~ZipReader() = default;

ZipReader::Status ZipReader::next(ZipMember& member) {
  State& state = *state_;
  const Bytes& bytes = state.bytes;
  if (!state.directory) return Status::kNoZip;
  if (state.n_seen == 0)
    state.next_at = state.directory->at;
  else if (state.n_seen == state.directory->n_entries)
    return Status::kEnd;
  const std::uint64_t at = state.next_at;
  if (!bytes.has(at, kEntryBytes) || bytes.u32(at) != kEntrySignature) return Status::kDamaged;
  Entry entry{bytes.u16(at + 8),  bytes.u16(at + 10), bytes.u32(at + 16), bytes.u32(at + 20),
              bytes.u32(at + 24), bytes.u32(at + 42), bytes.u16(at + 28)};
  const std::uint64_t name_end = at + kEntryBytes + entry.name_bytes;
  state.next_at = name_end + bytes.u16(at + 30) + bytes.u16(at + 32);
  if (entry.name_bytes > kMaxArrayNameBytes || !bytes.has(at, name_end - at)) return Status::kDamaged;
  const std::uint16_t extra_bytes = bytes.u16(at + 30);
  for (std::uint64_t seen = 0, extra = name_end; seen < extra_bytes;) {
    const std::uint16_t tag = bytes.u16(extra), size = bytes.u16(extra + 2);
    seen += 4U + size;
    extra += 4;
    if (tag == kTagSizes) continue;  // minizip reads on within it
    if (!bytes.has(extra, size)) return Status::kDamaged;
    extra += size;
  }
  ++state.n_seen;
  state.entry = entry;
  const auto name = bytes.part(at + kEntryBytes, entry.name_bytes);
  member.name.assign(name.begin(), std::find(name.begin(), name.end(), 0));
  member.compressed_bytes = entry.compressed_bytes;
  member.bytes = entry.bytes;
  member.is_readable = (entry.method == kStored || entry.method == kDeflated) && (entry.flags & kEncrypted) == 0;
  return Status::kOk;
}

bool ZipReader::open() {
  State& state = *state_;
  const Bytes& bytes = state.bytes;
  const Entry& entry = state.entry;
  const std::uint64_t at = state.directory->before + entry.local_at;
  if (!bytes.has(at, kLocalBytes) || bytes.u32(at) != kLocalSignature) return false;
  const bool sizes_follow = (bytes.u16(at + 6) & kSizesFollow) != 0;
  const auto agrees = [&](std::uint64_t number_at, std::uint64_t number) {
    const std::uint32_t found = bytes.u32(number_at);
    return found == number || found == kElsewhere || sizes_follow;
  };
  if (bytes.u16(at + 8) != entry.method || (bytes.u32(at + 14) != entry.crc && !sizes_follow) ||
      !agrees(at + 18, entry.compressed_bytes) || !agrees(at + 22, entry.bytes) ||
      bytes.u16(at + 26) != entry.name_bytes)
    return false;
  const std::uint64_t data_at = at + kLocalBytes + entry.name_bytes + bytes.u16(at + 28);
  if (!bytes.has(data_at, entry.compressed_bytes)) return false;
  const auto packed = bytes.part(data_at, entry.compressed_bytes);
  if (entry.method == kStored) {
    state.left = packed;
  } else {
    state.inflated = inflate_raw(packed, entry.bytes).data;
    state.left = state.inflated;
  }
  state.crc = crc32(state.left.first(std::min<std::size_t>(state.left.size(), static_cast<std::size_t>(entry.bytes))));
  return true;
}

bool ZipReader::read(std::span<std::byte> target) {
  std::span<const std::uint8_t>& left = state_->left;
  if (target.size() > left.size()) return false;
  std::transform(left.begin(), left.begin() + static_cast<std::ptrdiff_t>(target.size()), target.begin(),
                 [](std::uint8_t byte) { return std::byte{byte}; });
  left = left.subspan(target.size());
  return true;
}

bool ZipReader::close() {
  state_->inflated = {};
  return state_->crc == state_->entry.crc;
}

}  // namespace rdeic
