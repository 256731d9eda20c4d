#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "bundle.h"
#include "entropy/workers.h"
#include "families/family.h"
#include "input_limits.h"
#include "status.h"

namespace rdeic {
namespace {

/// Returns the text of a file, or if it is longer than kMaxManifestBytes a byte more of it.
std::string read_manifest(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error))
    fail(Result::kBundleNotFound, "%s is not a bundle: it has no %s", path.parent_path().c_str(), kManifest);
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(Result::kIo, "%s: cannot be opened", path.c_str());
  std::string data(kMaxManifestBytes + 1, '\0');
  file.read(data.data(), static_cast<std::streamsize>(data.size()));
  if (file.bad()) fail(Result::kIo, "%s: cannot be read", path.c_str());
  data.resize(static_cast<std::size_t>(file.gcount()));
  return data;
}

/// Checks that no listed path is a link that leaves the folder, which has none in its own path.
void check_links(const Bundle& bundle) {
  const std::string where = (bundle.folder / kManifest).string();
  for (const auto& [name, file] : *bundle.files) {
    std::error_code error;
    const std::filesystem::path target = std::filesystem::weakly_canonical(file.path, error);
    if (error)
      fail(Result::kBundleCorrupt, "%s: the path '%s' is too long, or a link to itself", where.c_str(),
           printable(name).c_str());
    const auto [end, rest] = std::mismatch(bundle.folder.begin(), bundle.folder.end(), target.begin(), target.end());
    if (end != bundle.folder.end())
      fail(Result::kBundleCorrupt, "%s: '%s' is a link that leaves the bundle's folder", where.c_str(),
           printable(name).c_str());
  }
}

/// Checks all listed files, several at a time, as hashing them is most of what opening a bundle takes; of several that
/// are wrong, the first by name decides.
void check_files(const BundleFiles& files, bool verify) {
  constexpr unsigned kMaxThreads = 4;
  entropy::Workers workers(verify ? std::min(std::thread::hardware_concurrency(), kMaxThreads) : 1);
  workers.run(files.size(),
              [&](std::size_t i) { std::next(files.begin(), static_cast<std::ptrdiff_t>(i))->second.check(); });
}

}  // namespace

Bundle read_bundle(const std::filesystem::path& folder, bool verify) {
  return read_bundle(folder, verify, families::table());
}

Bundle read_bundle(const std::filesystem::path& folder, bool verify, families::Table known) {
  std::error_code error;
  const std::filesystem::path real = std::filesystem::canonical(folder, error);
  if (error) fail(Result::kBundleNotFound, "%s is not a bundle: there is no such folder", folder.c_str());
  Bundle bundle = parse_bundle(read_manifest(real / kManifest), real, verify, known);
  check_links(bundle);
  check_files(*bundle.files, verify);
  return bundle;
}

}  // namespace rdeic
