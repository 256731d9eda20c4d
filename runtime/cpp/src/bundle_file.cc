#include "bundle_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>

#include "sha256.h"
#include "status.h"

namespace rdeic {
namespace {

constexpr const char* kFetchAgain = "Get the bundle again, or export it again.";
constexpr std::size_t kBlockBytes = std::size_t{1} << 18;

[[noreturn]] void missing(const BundleFile& file) {
  fail(Result::kBundleCorrupt, "%s: listed in bundle.json, but there is no such file. %s", file.path.c_str(),
       kFetchAgain);
}

[[noreturn]] void wrong_length(const BundleFile& file, std::uintmax_t size_bytes) {
  fail(Result::kBundleCorrupt, "%s: has %" PRIuMAX " bytes, should have %" PRIu64 ". %s", file.path.c_str(), size_bytes,
       file.size_bytes, kFetchAgain);
}

/// An open file that is a regular one of the right length.
class OpenFile {
 public:
  explicit OpenFile(const BundleFile& file) : file_(file) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(file.path, error)) missing(file);  // a pipe would keep us waiting
    descriptor_ = ::open(file.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor_ < 0 && errno == ENOENT) missing(file);
    if (descriptor_ < 0) fail(Result::kIo, "%s: cannot be opened", file.path.c_str());
    struct stat found {};
    const bool is_file = fstat(descriptor_, &found) == 0 && S_ISREG(found.st_mode);
    const auto size_bytes = static_cast<std::uintmax_t>(found.st_size);
    if (is_file && size_bytes == file.size_bytes) return;
    ::close(descriptor_);
    if (is_file) wrong_length(file, size_bytes);
    missing(file);
  }
  ~OpenFile() { ::close(descriptor_); }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  int descriptor() const { return descriptor_; }

  /// Reads into `target` and returns how many bytes there were, 0 at the end of the file.
  std::size_t read(std::span<std::uint8_t> target) {
    for (;;) {
      const ssize_t got = ::read(descriptor_, target.data(), target.size());
      if (got >= 0) return static_cast<std::size_t>(got);
      if (errno != EINTR) fail(Result::kIo, "%s: cannot be read", file_.path.c_str());
    }
  }

 private:
  const BundleFile& file_;
  int descriptor_ = -1;
};

void compare(const BundleFile& file, Sha256& hash) {
  const std::string digest = hex(hash.finish());
  if (digest != file.sha256)
    fail(Result::kBundleCorrupt, "%s: SHA-256 is %s, should be %s: its content has changed. %s", file.path.c_str(),
         digest.c_str(), file.sha256.c_str(), kFetchAgain);
}

void compare(const BundleFile& file, std::span<const std::uint8_t> data) {
  if (!file.verify) return;
  Sha256 hash;
  hash.update(data);
  compare(file, hash);
}

}  // namespace

FileMap::FileMap(int descriptor, std::size_t size_bytes, const std::filesystem::path& path) {
  void* const start = mmap(nullptr, size_bytes, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (start == MAP_FAILED) {
    if (errno == ENOMEM) fail(Result::kOutOfMemory, "%s: no memory to map %zu bytes", path.c_str(), size_bytes);
    fail(Result::kIo, "%s: cannot be mapped into memory", path.c_str());
  }
  bytes_ = {static_cast<const std::uint8_t*>(start), size_bytes};
}

FileMap::~FileMap() { munmap(const_cast<std::uint8_t*>(bytes_.data()), bytes_.size()); }

void BundleFile::check() const {
  OpenFile file(*this);
  if (!verify) return;
  Sha256 hash;
  std::vector<std::uint8_t> block(kBlockBytes);
  while (const std::size_t got = file.read(block)) hash.update(std::span(block).first(got));
  compare(*this, hash);
}

std::vector<std::uint8_t> BundleFile::read() const {
  OpenFile file(*this);
  std::vector<std::uint8_t> data(static_cast<std::size_t>(size_bytes));
  std::size_t there = 0;
  while (there < data.size()) {
    const std::size_t got = file.read(std::span(data).subspan(there));
    if (got == 0) wrong_length(*this, there);
    there += got;
  }
  compare(*this, data);
  return data;
}

std::shared_ptr<const FileMap> BundleFile::map() const {
  const OpenFile file(*this);
  auto mapped = std::make_shared<const FileMap>(file.descriptor(), static_cast<std::size_t>(size_bytes), path);
  compare(*this, mapped->bytes());
  return mapped;
}

}  // namespace rdeic
