#pragma once

#include <system_error>

#include "bundle_file.h"

namespace rdeic::testing {

/// Returns a file as a bundle would list it as it is now, its hash left out.
inline BundleFile listed_file(const std::filesystem::path& path) {
  std::error_code none;
  const std::uintmax_t size_bytes = std::filesystem::file_size(path, none);
  return {path, none ? 0 : size_bytes, {}, false};
}

}  // namespace rdeic::testing
