#include "container.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "expect_error.h"
#include "rdc_builder.h"

namespace rdeic {
namespace {

using testing::Bytes;
using testing::expect_error;
using testing::FileParts;
using testing::record;
using testing::varint;
using testing::with_metadata;
using testing::operator+=;

void expect_refused(const Bytes& data, Result result, const std::string& words, const Limits& limits = {},
                    bool allow_partial = false) {
  expect_error(result, words, [&] { parse(data, limits, allow_partial); });
}

Bytes first(const Bytes& data, std::size_t n) {
  return Bytes(data.begin(), data.begin() + static_cast<std::ptrdiff_t>(n));
}

TEST(Container, ReadsTheExampleOfTheSpecification) {
  const Bytes data = {0x89, 0x52, 0x44, 0x43, 1,    2,    1,    2,    3,    4,    1,    0x80, 6,
                      0x80, 4,    2,    3,    0xaa, 0xbb, 0x11, 0x22, 0x33, 0x0f, 0xfa, 0x2b, 0x98};
  EXPECT_EQ(data, FileParts{}.file());
  const File file = parse(data, {});
  EXPECT_EQ(file.header.size, (Size{512, 768}));
  EXPECT_EQ(file.header.model_id, (ModelId{1, 2, 3, 4}));
  EXPECT_EQ(file.header.rate, 1);
  EXPECT_TRUE(file.header.z_is_plain);
  EXPECT_EQ(Bytes(file.z.begin(), file.z.end()), (Bytes{0xaa, 0xbb}));
  EXPECT_EQ(Bytes(file.y.begin(), file.y.end()), (Bytes{0x11, 0x22, 0x33}));
  EXPECT_EQ(file.checksum, 0x982bfa0fU);
  EXPECT_EQ(file.missing_bytes, 0U);
}

TEST(Container, ReadsEveryGoldenFile) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(RDEIC_SOURCE_DIR "/tests/golden/v1")) {
    if (entry.path().extension() != ".rdc") continue;
    EXPECT_NO_THROW(parse(testing::read_file(entry.path()), {})) << entry.path();
    ++count;
  }
  EXPECT_GT(count, 0);
}

TEST(Container, EveryTruncationIsTruncated) {
  const Bytes data = with_metadata(record(1, Bytes(50, 7))).file();
  for (std::size_t n = 0; n < data.size(); ++n) expect_refused(first(data, n), Result::kTruncated, "");
}

TEST(Container, EveryBitFlipIsRefused) {
  const Bytes data = with_metadata(record(1, Bytes(50, 7))).file();
  for (std::size_t bit = 0; bit < 8 * data.size(); ++bit) {
    Bytes damaged = data;
    damaged[bit / 8] ^= static_cast<std::uint8_t>(1U << (bit % 8));
    EXPECT_THROW(parse(damaged, {}), Error) << "bit " << bit;
  }
}

TEST(Container, RejectsAnotherSignature) {
  expect_refused({0x89, 'P', 'N', 'G', 1}, Result::kNotRdc, "found 89 50 4e 47");
  expect_refused({'x'}, Result::kNotRdc, "found 78");
  expect_refused({}, Result::kTruncated, "signature at byte 0: should have 4 bytes, 0 are left");
}

TEST(Container, RejectsVersionsAndFlagsItDoesNotKnow) {
  FileParts parts;
  parts.start[4] = 2;
  expect_refused(parts.file(), Result::kUnsupportedVersion, "version 2");
  parts = {};
  parts.start[5] = 0x04;
  expect_refused(parts.file(), Result::kUnsupportedVersion, "0x04");
}

TEST(Container, RejectsVarintsThatNoEncoderWrites) {
  const std::vector<Bytes> refused = {{0x80, 0},
                                      {0x85, 0},
                                      {0x80, 0x80, 0x80, 0x80, 0x10},
                                      {0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
                                      {0xff, 0xff, 0xff, 0xff, 0xff}};
  for (const Bytes& width : refused) {
    FileParts parts;
    parts.width = width;
    expect_refused(parts.file(), Result::kBitstream, "width at byte 11");
  }
}

TEST(Container, RejectsImagesWithoutPixels) {
  FileParts parts;
  parts.height = varint(0);
  expect_refused(parts.file(), Result::kBitstream, "768x0 pixels");
}

TEST(Container, RejectsImagesOverALimit) {
  FileParts parts;
  parts.width = varint(65536);
  expect_refused(parts.file(), Result::kLimitExceeded, "max_side_px");
  parts.width = varint(65535);
  parts.height = varint(65535);
  expect_refused(parts.file(), Result::kLimitExceeded, "max_pixels");
  parts.width = parts.height = varint(0xffffffff);
  Limits limits;
  limits.max_side_px = 0xffffffff;
  expect_refused(parts.file(), Result::kLimitExceeded, "max_pixels", limits);
  limits.max_pixels = UINT64_MAX;
  EXPECT_NO_THROW(parse(parts.file(), limits));
  limits.max_file_bytes = 20;
  expect_refused(parts.file(), Result::kLimitExceeded, "max_file_bytes", limits);
}

TEST(Container, RejectsTruncatedSection) {
  FileParts parts;
  Bytes data = parts.start;
  for (const std::uint64_t number : {768U, 512U, 0xffffffffU, 3U}) data += varint(number);
  expect_refused(testing::sealed(data), Result::kTruncated,
                 "z section at byte 21: should have 4294967295 bytes, 4 are left");
}

TEST(Container, RejectsBytesAfterTheEnd) {
  Bytes data = FileParts{}.file();
  data.push_back(0);
  expect_refused(data, Result::kBitstream, "1 bytes follow");
}

TEST(Container, RejectsAChangedByte) {
  Bytes data = FileParts{}.file();
  data[18] ^= 0x10;
  expect_refused(data, Result::kChecksum, "the file says 982bfa0f");
}

TEST(Container, ReturnsMetadata) {
  Bytes records = record(2, {'I', 'I', '*', 0});
  records += record(77, {1, 2, 3});
  records += record(1, Bytes(300, 9));
  const File file = parse(with_metadata(records).file(), {});
  EXPECT_EQ(file.metadata.icc, Bytes(300, 9));
  EXPECT_EQ(file.metadata.exif, (Bytes{'I', 'I', '*', 0}));
  EXPECT_NO_THROW(parse(with_metadata({}).file(), {}));
}

TEST(Container, RejectsMalformedMetadata) {
  Bytes twice = record(1, {1});
  twice += record(1, {2});
  expect_refused(with_metadata(twice).file(), Result::kBitstream, "tag 1 comes twice");
  expect_refused(with_metadata(record(2, {})).file(), Result::kBitstream, "tag 2 is empty");
  expect_refused(with_metadata({1, 5, 0}).file(), Result::kBitstream, "record at byte 2 of the inflated metadata");
  expect_refused(with_metadata({1}).file(), Result::kBitstream, "record length at byte 1");
  expect_refused(with_metadata({1, 0x80, 0}).file(), Result::kBitstream, "record length at byte 1");
}

TEST(Container, RejectsMetadataThatIsNoWholeZlibStream) {
  FileParts parts = with_metadata(record(1, Bytes(500, 3)));
  const Bytes good = parts.metadata;
  parts.metadata.pop_back();
  expect_refused(parts.file(), Result::kBitstream, "does not end");
  parts.metadata = good;
  parts.metadata.push_back(0);
  expect_refused(parts.file(), Result::kBitstream, "1 bytes follow its zlib stream");
  parts.metadata = good;
  parts.metadata.back() ^= 1;  // of the Adler-32
  expect_refused(parts.file(), Result::kBitstream, "not a zlib stream");
  parts.metadata = {1, 2, 3};
  expect_refused(parts.file(), Result::kBitstream, "not a zlib stream");
  parts.metadata = {0x78, 0xbb, 1, 2, 3, 4};  // asks for a preset dictionary
  expect_refused(parts.file(), Result::kBitstream, "not a zlib stream");
  parts.metadata = {};
  expect_refused(parts.file(), Result::kBitstream, "does not end");
}

TEST(Container, RejectsMetadataThatInflatesBeyondItsLimit) {
  const Bytes records = record(1, Bytes(100'000, 0));
  Limits limits;
  limits.max_metadata_bytes = records.size();
  EXPECT_NO_THROW(parse(with_metadata(records).file(), limits));
  limits.max_metadata_bytes = records.size() - 1;
  expect_refused(with_metadata(records).file(), Result::kLimitExceeded, "max_metadata_bytes", limits);
  limits.max_metadata_bytes = UINT64_MAX;
  EXPECT_NO_THROW(parse(with_metadata(records).file(), limits));
  // What lies beyond the limit is not looked at.
  FileParts damaged = with_metadata(records);
  damaged.metadata.back() ^= 1;
  limits.max_metadata_bytes = 0;
  expect_refused(damaged.file(), Result::kLimitExceeded, "max_metadata_bytes", limits);
}

TEST(Container, RejectsMoreRecordsThanThereMayBe) {
  Bytes records;
  for (std::size_t i = 0; i < kMaxMetadataRecords; ++i) records += record(0, {});
  EXPECT_NO_THROW(parse(with_metadata(records).file(), {}));
  records += record(0, {});
  expect_refused(with_metadata(records).file(), Result::kLimitExceeded, "more than 1024");
}

TEST(Container, TakesWhatIsThereOfACutFileWhenAsked) {
  const Bytes icc(40, 5);
  const FileParts parts = with_metadata(record(1, icc));
  const Bytes data = parts.file();
  const std::size_t y_end = data.size() - 4 - parts.metadata.size();
  const std::size_t y_at = y_end - parts.y.size();
  for (std::size_t n = 0; n < y_at; ++n) expect_refused(first(data, n), Result::kTruncated, "", {}, true);
  for (std::size_t n = y_at; n < data.size(); ++n) {
    const Bytes cut = first(data, n);
    const File file = parse(cut, {}, true);
    EXPECT_EQ(file.missing_bytes, data.size() - n);
    EXPECT_EQ(file.missing_y_bytes, n < y_end ? y_end - n : 0);
    EXPECT_EQ(file.y.size(), std::min(n, y_end) - y_at);
    EXPECT_EQ(file.metadata.icc, n >= data.size() - 4 ? icc : Bytes{});
    const std::size_t checked = std::min(n, data.size() - 4);
    EXPECT_EQ(file.checksum, crc32c(first(data, checked))) << n;
  }
  EXPECT_EQ(parse(first(data, data.size() - 1), {}, true).checksum, parse(data, {}).checksum);
}

TEST(Container, TreatsAWholeFileAsIfNobodyHadAskedForPartial) {
  Bytes data = FileParts{}.file();
  EXPECT_EQ(parse(data, {}, true).missing_bytes, 0U);
  data.back() ^= 1;
  expect_refused(data, Result::kChecksum, "", {}, true);
}

}  // namespace
}  // namespace rdeic
