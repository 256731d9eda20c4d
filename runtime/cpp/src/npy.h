#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "arrays.h"

namespace rdeic {

/// What an .npy file says before its elements.
struct NpyHeader {
  DType dtype = DType::kUint8;
  std::vector<std::uint64_t> shape;
  std::size_t data_at = 0;       // offset of the first element
  std::uint64_t data_bytes = 0;  // of all elements
};

/// Returns the header of an .npy file of version 1, 2 or 3.
/// `data`: the file, or as much of its beginning as kMaxArrayHeaderBytes. `place` begins messages.
/// Throws Error(kBundleCorrupt) unless it announces one of the types of `DType`, in C order, within the limits.
NpyHeader parse_npy_header(std::span<const std::uint8_t> data, const std::string& place);

}  // namespace rdeic
