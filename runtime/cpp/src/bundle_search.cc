#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <stdexcept>

#include "bundle.h"
#include "sha256.h"
#include "status.h"

namespace rdeic {

namespace {

constexpr const char* kDefaultName = "tiny-2";
constexpr const char* kSearchVariable = "RDEIC_RT_BUNDLES";
#if defined(_WIN32)
constexpr char kListSeparator = ';';
#else
constexpr char kListSeparator = ':';
#endif

bool holds_bundle(const std::filesystem::path& folder) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(folder / kManifest, ignored);
}

bool is_name(const std::string& source) {
  return !source.empty() && source != "." && source != ".." && source.find_first_of("/\\:") == std::string::npos;
}

/// Returns the folder of installed bundles, which lies where it did when installed as seen from this library.
std::filesystem::path installed_engines() {
  Dl_info library{};
  std::error_code error;
  if (dladdr(reinterpret_cast<const void*>(&search_folders), &library) == 0 || !library.dli_fname) return {};
  const std::filesystem::path file = std::filesystem::canonical(library.dli_fname, error);
  return error ? std::filesystem::path() : (file.parent_path() / RDEIC_ENGINES_FROM_LIB).lexically_normal();
}

}  // namespace

std::vector<std::filesystem::path> search_folders() {
  std::vector<std::filesystem::path> folders;
  if (const char* listed = std::getenv(kSearchVariable)) {
    const std::string all = listed;
    for (std::size_t start = 0; start < all.size();) {
      const std::size_t end = std::min(all.find(kListSeparator, start), all.size());
      if (end > start) folders.emplace_back(all.substr(start, end - start));
      start = end + 1;
    }
  }
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  const char* const home = std::getenv("HOME");
  if (cache && *cache)
    folders.push_back(std::filesystem::path(cache) / "rdeic-rt" / "bundles");
  else if (home && *home)
    folders.push_back(std::filesystem::path(home) / ".cache" / "rdeic-rt" / "bundles");
  if (const std::filesystem::path engines = installed_engines(); !engines.empty()) folders.push_back(engines);
  return folders;
}

std::vector<std::filesystem::path> installed_bundles() {
  std::vector<std::filesystem::path> bundles;
  std::set<std::string> names;
  for (const std::filesystem::path& folder : search_folders()) {
    std::error_code error;
    std::set<std::filesystem::path> inside;
    for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
      if (holds_bundle(at->path())) inside.insert(at->path());
    for (const std::filesystem::path& bundle : inside)
      if (names.insert(bundle.filename().string()).second) bundles.push_back(bundle);
  }
  return bundles;
}

std::filesystem::path find_bundle(const std::optional<std::string>& source) {
  const std::string name = source.value_or(kDefaultName);
  std::string looked;
  const auto look = [&](const std::filesystem::path& folder) {
    if (holds_bundle(folder)) return true;
    looked += (looked.empty() ? "" : ", ") + folder.string();
    return false;
  };
  if (source && look(name)) return name;
  if (is_name(name))
    for (const std::filesystem::path& folder : search_folders())
      if (look(folder / name)) return folder / name;
  fail(Result::kBundleNotFound,
       "no bundle '%s': there is no %s in %s. Give a bundle's folder, put the folder that holds it into %s, or "
       "get it: rdeic-rt bundle pull SOURCE",
       printable(name).c_str(), kManifest, looked.c_str(), kSearchVariable);
}

Bundle find_bundle_for(const Header& header) {
  std::vector<std::filesystem::path> candidates = installed_bundles();
  std::stable_partition(candidates.begin(), candidates.end(),
                        [](const auto& folder) { return folder.filename() == kDefaultName; });
  std::string looked;
  for (const std::filesystem::path& folder : candidates) {
    looked += (looked.empty() ? "" : ", ") + folder.string();
    try {
      Bundle bundle = read_bundle(folder, false);
      if (bundle.has(header.model_id, header.rate)) return bundle;
    } catch (const std::runtime_error&) {
      looked += " (cannot be used)";
    }
  }
  if (candidates.empty())
    for (const std::filesystem::path& folder : search_folders())
      looked += (looked.empty() ? "" : ", ") + folder.string();
  fail(Result::kBundleMismatch,
       "the file needs model %s at rate %d, which no installed bundle has; looked at %s. Give the bundle that the file "
       "was made with, put the folder that holds it into %s, or get it: rdeic-rt bundle pull SOURCE",
       hex(header.model_id).c_str(), header.rate, looked.c_str(), kSearchVariable);
}

}  // namespace rdeic
