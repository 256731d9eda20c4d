#pragma once

// Types of elements, in files and in graphs.

#include <cstddef>
#include <cstdint>

namespace rdeic {

enum class DType { kUint8, kInt8, kUint16, kInt32, kInt64, kFloat32, kFloat16 };

/// Returns the type's name as docs/format.md and docs/bundle.md write it, like "int32".
const char* dtype_name(DType dtype);
std::size_t dtype_bytes(DType dtype);

template <typename T>
DType dtype_of();
template <>
inline DType dtype_of<std::uint8_t>() {
  return DType::kUint8;
}
template <>
inline DType dtype_of<std::int8_t>() {
  return DType::kInt8;
}
template <>
inline DType dtype_of<std::uint16_t>() {
  return DType::kUint16;
}
template <>
inline DType dtype_of<std::int32_t>() {
  return DType::kInt32;
}
template <>
inline DType dtype_of<std::int64_t>() {
  return DType::kInt64;
}
template <>
inline DType dtype_of<float>() {
  return DType::kFloat32;
}

}  // namespace rdeic
