#pragma once

// A file that bundle.json lists: its content, with length and SHA-256 compared each time it is read.
//
// read_bundle hashes every file, so that damage is found at once. What is used later is read anew, and its hash is
// taken of the bytes that are handed out: a file that was changed in between is refused, not used.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace rdeic {

/// A file that is mapped into memory for as long as this lives.
class FileMap {
 public:
  /// Maps an open file of `size_bytes`, 1 or more; `path` is for messages.
  FileMap(int descriptor, std::size_t size_bytes, const std::filesystem::path& path);
  ~FileMap();
  FileMap(const FileMap&) = delete;
  FileMap& operator=(const FileMap&) = delete;

  std::span<const std::uint8_t> bytes() const { return bytes_; }

 private:
  std::span<const std::uint8_t> bytes_;
};

/// A listed file. Every method throws Error: kBundleCorrupt if the file is missing, no regular file, or has another
/// length or hash; kIo if it cannot be read.
struct BundleFile {
  std::filesystem::path path;
  std::uint64_t size_bytes = 0;
  std::string sha256;
  bool verify = true;  // compare the hash; the length is compared in any case

  /// Compares length and hash.
  void check() const;
  /// Returns the content.
  std::vector<std::uint8_t> read() const;
  /// Returns the content, which must not be empty, mapped: the file that was hashed, whatever is done to its name
  /// afterwards. Writing into that file shows through, and making it shorter ends the process when the missing part is
  /// used (docs/bundle.md, "Checks").
  std::shared_ptr<const FileMap> map() const;
};

}  // namespace rdeic
