#pragma once

// Arrays of an .npz file: a zip archive, members stored or deflated, of .npy files in C order, little-endian.
// Sizes are checked against limits and against what the archive holds before anything is allocated.

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "bundle_file.h"
#include "dtype.h"

namespace rdeic {

struct Array {
  DType dtype = DType::kUint8;
  std::vector<std::uint64_t> shape;
  std::vector<std::byte> data;  // elements in C order, as the machine has them

  std::size_t count() const { return data.size() / dtype_bytes(dtype); }
  /// Returns "int32 [3, 4]".
  std::string description() const;
};

/// A dimension of any length from 1 on, in `Arrays::get`.
inline constexpr std::uint64_t kAnyLength = 0;

class Arrays {
 public:
  /// Reads a file; `what` begins messages about its arrays ("entropy model", or the path if empty). Throws
  /// Error(kBundleCorrupt) if it is no such file, and what `BundleFile::read` throws.
  static Arrays read(const BundleFile& file, const std::string& what = {}) {
    return read(file.read(), file.path.string(), what);
  }
  /// The same of a file's content; `path` is for messages.
  static Arrays read(std::span<const std::uint8_t> content, const std::string& path, const std::string& what = {});
  /// The same of arrays that are at hand.
  explicit Arrays(std::map<std::string, Array> arrays, std::string what)
      : what_(std::move(what)), arrays_(std::move(arrays)) {}

  bool contains(const std::string& name) const { return arrays_.contains(name); }
  /// All arrays, in the order of their names as byte strings: that of the model id's canonical form.
  const std::map<std::string, Array>& all() const { return arrays_; }
  const std::string& what() const { return what_; }

  /// Returns the array of this name, whose type must be T and whose shape must fit `shape`, in which kAnyLength stands
  /// for any length of 1 or more. Throws Error(kBundleCorrupt).
  template <typename T>
  std::span<const T> get(const std::string& name, std::span<const std::uint64_t> shape) const {
    const Array& array = find(name, dtype_of<T>(), shape);
    // Storage of std::byte from operator new is aligned for, and implicitly holds, any such T.
    return {reinterpret_cast<const T*>(array.data.data()), array.count()};
  }
  template <typename T>
  std::span<const T> get(const std::string& name, std::initializer_list<std::uint64_t> shape) const {
    return get<T>(name, std::span<const std::uint64_t>(shape.begin(), shape.size()));
  }
  /// Returns the shape of an array; Error(kBundleCorrupt) if there is none of this name.
  const std::vector<std::uint64_t>& shape(const std::string& name) const;

 private:
  const Array& find(const std::string& name, DType dtype, std::span<const std::uint64_t> shape) const;

  std::string what_;
  std::map<std::string, Array> arrays_;
};

}  // namespace rdeic
