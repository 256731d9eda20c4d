#pragma once

// A zip archive in memory, read member by member. Natively zip_reader_minizip.cc, with minizip; in WebAssembly
// wasm/zip_reader_wasm.cc.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace rdeic {

/// What the directory of an archive says of a member.
struct ZipMember {
  std::string name;
  std::uint64_t compressed_bytes = 0;
  std::uint64_t bytes = 0;   // unpacked
  bool is_readable = false;  // stored or deflated, and not encrypted
};

/// Reads the members of one archive in the order of its directory. Nothing is allocated by what the directory says.
class ZipReader {
 public:
  enum class Status {
    kOk,
    kEnd,      // there are no more members
    kNoZip,    // this is no archive
    kDamaged,  // its directory is damaged, or a name longer than kMaxArrayNameBytes
  };

  /// `content` must outlive the reader.
  explicit ZipReader(std::span<const std::uint8_t> content);
  ~ZipReader();
  ZipReader(const ZipReader&) = delete;
  ZipReader& operator=(const ZipReader&) = delete;

  /// Goes to the next member, at first to the first one.
  Status next(ZipMember& member);

  /// Opens the member that `next` went to; `read` continues where it was, and `close` compares the CRC-32 once all was
  /// read. All return false if the member is damaged.
  bool open();
  bool read(std::span<std::byte> target);
  bool close();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace rdeic
