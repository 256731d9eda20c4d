#pragma once

#include <cstdint>
#include <initializer_list>
#include <set>
#include <span>
#include <string>

#include "arrays.h"

namespace rdeic::entropy {

/// Takes the arrays of an entropy model by name and checks each; `close` finds those that nobody took. Whatever is
/// wrong is an Error(kBundleCorrupt).
class ModelReader {
 public:
  explicit ModelReader(const Arrays& arrays) : arrays_(arrays) {}

  bool contains(const std::string& name) const { return arrays_.contains(name); }
  const std::vector<std::uint64_t>& shape(const std::string& name) const { return arrays_.shape(name); }

  /// Returns an array of this type and shape, in which kAnyLength is one or more.
  template <typename T>
  std::span<const T> take(const std::string& name, std::initializer_list<std::uint64_t> shape) {
    taken_.insert(name);
    return arrays_.get<T>(name, shape);
  }

  /// Returns the value of an int32 array of one element, low <= value <= high.
  std::int32_t number(const std::string& name, std::int32_t low, std::int32_t high);

  /// Throws with this problem unless the condition holds.
  void check(bool condition, const std::string& problem) const;

  /// Checks that every array was taken.
  void close() const;

 private:
  const Arrays& arrays_;
  std::set<std::string> taken_;
};

}  // namespace rdeic::entropy
