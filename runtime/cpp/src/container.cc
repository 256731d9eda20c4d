#include "container.h"

#include <algorithm>
#include <cinttypes>
#include <string>
#include <utility>

#include "crc32c.h"
#include "inflate.h"
#include "reader.h"
#include "status.h"

namespace rdeic {

namespace {

constexpr std::array<std::uint8_t, 4> kSignature = {0x89, 'R', 'D', 'C'};
constexpr std::uint8_t kVersion = 1;
constexpr unsigned kFlagMetadata = 0x01;
constexpr unsigned kFlagPlainZ = 0x02;
constexpr unsigned kKnownFlags = kFlagMetadata | kFlagPlainZ;
constexpr std::uint64_t kChecksumBytes = 4;
constexpr std::uint8_t kTagIcc = 1;
constexpr std::uint8_t kTagExif = 2;

/// Reads the signature; one that is cut short, but right so far, is kTruncated.
void check_signature(Reader& reader, std::span<const std::uint8_t> data) {
  const std::size_t there = std::min(data.size(), kSignature.size());
  if (!std::equal(data.begin(), data.begin() + static_cast<std::ptrdiff_t>(there), kSignature.begin())) {
    std::string found;
    for (const std::uint8_t byte : data.first(there)) found += text(" %02x", byte);
    fail(Result::kNotRdc, "signature at byte 0: should be 89 52 44 43, found%s. This is not an .rdc file",
         found.c_str());
  }
  reader.take(kSignature.size(), "signature");
}

Size read_size(Reader& reader, const Limits& limits) {
  const std::size_t start = reader.at();
  Size size;
  size.width = reader.varint("width");
  size.height = reader.varint("height");
  const std::string place = reader.place("size", start);
  if (size.width == 0 || size.height == 0)
    fail(Result::kBitstream, "%s: %" PRIu32 "x%" PRIu32 " pixels, an image has at least 1x1. %s", place.c_str(),
         size.width, size.height, kNoEncoder);
  limits.check_size(size, place.c_str());
  return size;
}

/// Returns what a metadata section holds.
std::vector<std::uint8_t> inflated(std::span<const std::uint8_t> section, const std::string& place,
                                   std::uint64_t limit_bytes) {
  Inflated stream = inflate_zlib(section, limit_bytes);
  switch (stream.end) {
    case Inflated::End::kDamaged:
      fail(Result::kBitstream, "%s: not a zlib stream (%s). %s", place.c_str(), stream.problem.c_str(), kNoEncoder);
    case Inflated::End::kTooLong:
      fail(Result::kLimitExceeded, "%s: inflates to more than %" PRIu64 " bytes (limit max_metadata_bytes)",
           place.c_str(), limit_bytes);
    case Inflated::End::kUnending:
      fail(Result::kBitstream, "%s: its zlib stream does not end. %s", place.c_str(), kNoEncoder);
    case Inflated::End::kWhole:
      break;
  }
  if (stream.left_bytes > 0)
    fail(Result::kBitstream, "%s: %zu bytes follow its zlib stream. %s", place.c_str(), stream.left_bytes, kNoEncoder);
  return std::move(stream.data);
}

Metadata parse_metadata(std::span<const std::uint8_t> section, std::size_t at, const Limits& limits) {
  const std::string place = text("metadata section at byte %zu", at);
  const std::vector<std::uint8_t> data = inflated(section, place, limits.max_metadata_bytes);
  Reader reader(data, " of the inflated metadata", Result::kBitstream, kNoEncoder);
  Metadata metadata;
  for (std::size_t n_records = 1; reader.left() > 0; ++n_records) {
    const std::size_t start = reader.at();
    if (n_records > kMaxMetadataRecords)
      fail(Result::kLimitExceeded, "%s: more than %zu, which is all that there may be",
           reader.place("record", start).c_str(), kMaxMetadataRecords);
    const std::uint8_t tag = reader.u8("record tag");
    const std::uint32_t length = reader.varint("record length");
    const std::span<const std::uint8_t> record = reader.take(length, "record");
    if (tag != kTagIcc && tag != kTagExif) continue;
    std::vector<std::uint8_t>& target = tag == kTagIcc ? metadata.icc : metadata.exif;
    if (!target.empty() || record.empty())
      fail(Result::kBitstream, "%s: tag %d %s. %s", reader.place("record", start).c_str(), tag,
           target.empty() ? "is empty" : "comes twice", kNoEncoder);
    target.assign(record.begin(), record.end());
  }
  return metadata;
}

/// Completes a file that ends too early, from its y section on (docs/format.md, "Truncated files").
void parse_cut(Reader& reader, std::span<const std::uint8_t> data, std::uint32_t y_bytes, std::uint32_t metadata_bytes,
               const Limits& limits, File& file) {
  file.y = reader.take(std::min<std::uint64_t>(y_bytes, reader.left()), "y section");
  file.missing_y_bytes = y_bytes - file.y.size();
  const std::size_t metadata_at = reader.at();
  if (metadata_bytes > 0 && metadata_bytes <= reader.left())
    file.metadata = parse_metadata(reader.take(metadata_bytes, "metadata section"), metadata_at, limits);
  // What is left is the beginning of a section that is not whole, or of the checksum, which does not count.
  const std::size_t checked = reader.at() + (file.missing_bytes > kChecksumBytes ? reader.left() : 0);
  file.checksum = crc32c(data.first(checked));
}

}  // namespace

File parse(std::span<const std::uint8_t> data, const Limits& limits, bool allow_partial) {
  if (data.size() > limits.max_file_bytes)
    fail(Result::kLimitExceeded, "%zu bytes; an .rdc file may have %" PRIu64 " (limit max_file_bytes)", data.size(),
         limits.max_file_bytes);
  Reader reader(data);
  check_signature(reader, data);
  const std::uint8_t version = reader.u8("version");
  if (version != kVersion)
    fail(Result::kUnsupportedVersion,
         "version at byte 4: the file is version %d, this reader knows version %d. Upgrade librdeic", version,
         kVersion);
  const std::uint8_t flags = reader.u8("flags");
  if (flags & ~kKnownFlags)
    fail(Result::kUnsupportedVersion,
         "flags at byte 5: 0x%02x, version %d defines only the bits of 0x%02x. The file needs a later librdeic, or is "
         "damaged",
         flags, kVersion, kKnownFlags);
  File file;
  const std::span<const std::uint8_t> model_id = reader.take(file.header.model_id.size(), "model id");
  std::copy(model_id.begin(), model_id.end(), file.header.model_id.begin());
  file.header.rate = reader.u8("rate");
  file.header.z_is_plain = flags & kFlagPlainZ;
  file.header.size = read_size(reader, limits);
  const std::uint32_t z_bytes = reader.varint("z section length");
  const std::uint32_t y_bytes = reader.varint("y section length");
  const std::uint32_t metadata_bytes = flags & kFlagMetadata ? reader.varint("metadata section length") : 0;

  file.z = reader.take(z_bytes, "z section");
  const std::uint64_t wanted = std::uint64_t{y_bytes} + metadata_bytes + kChecksumBytes;
  if (allow_partial && wanted > reader.left()) {
    file.missing_bytes = wanted - reader.left();
    parse_cut(reader, data, y_bytes, metadata_bytes, limits, file);
    return file;
  }
  file.y = reader.take(y_bytes, "y section");
  const std::size_t metadata_at = reader.at();
  const std::span<const std::uint8_t> metadata = reader.take(metadata_bytes, "metadata section");
  const std::size_t checksum_at = reader.at();
  file.checksum = reader.u32("checksum");
  if (reader.left() > 0)
    fail(Result::kBitstream, "byte %zu: the file should end here, %zu bytes follow. %s", reader.at(), reader.left(),
         kNoEncoder);
  const std::uint32_t computed = crc32c(data.first(checksum_at));
  if (file.checksum != computed)
    fail(Result::kChecksum,
         "checksum at byte %zu: the file says %08" PRIx32 ", its bytes give %08" PRIx32
         ". The file is damaged; fetch it again.",
         checksum_at, file.checksum, computed);
  if (flags & kFlagMetadata) file.metadata = parse_metadata(metadata, metadata_at, limits);
  return file;
}

}  // namespace rdeic
