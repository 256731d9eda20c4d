#pragma once

// Arrays of any type and shape: what graphs and stages hand to each other, by name.

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "dtype.h"
#include "tensor.h"

namespace rdeic {

/// An array on the host, or where a backend computes. It belongs to whoever holds it, and nothing changes it once it is
/// made.
class Value {
 public:
  virtual ~Value() = default;

  virtual DType dtype() const = 0;
  virtual const Shape& shape() const = 0;
  /// Returns the elements in C order, or nullptr if they are not on the host.
  virtual const std::byte* data() const = 0;
};

using ValuePtr = std::shared_ptr<const Value>;
/// Values by the names of tensors.
using Values = std::map<std::string, ValuePtr>;

/// An array on the host.
class HostValue final : public Value {
 public:
  /// Elements are not initialised: who makes one writes all of it before anyone else sees it.
  HostValue(DType dtype, Shape shape);

  template <typename T>
  explicit HostValue(Tensor<T> tensor) : HostValue(std::make_shared<Tensor<T>>(std::move(tensor))) {}

  DType dtype() const override { return dtype_; }
  const Shape& shape() const override { return shape_; }
  const std::byte* data() const override { return data_.get(); }
  std::byte* data() { return data_.get(); }

 private:
  template <typename T>
  explicit HostValue(const std::shared_ptr<Tensor<T>>& tensor)
      : dtype_(dtype_of<T>()), shape_(tensor->shape()), data_(tensor, reinterpret_cast<std::byte*>(tensor->data())) {}

  DType dtype_;
  Shape shape_;
  std::shared_ptr<std::byte> data_;  // of what it was made from, a tensor or bytes
};

template <typename T>
ValuePtr to_value(Tensor<T> tensor) {
  return std::make_shared<const HostValue>(std::move(tensor));
}

/// Returns zeros on the host, of the type and shape of a value.
ValuePtr zeros_like(const Value& value);

/// Returns the elements of a value on the host; Error(kBundleCorrupt) if it has another type, as graphs may make what
/// they like. `what` names it.
template <typename T>
std::span<const T> elements(const Value& value, const char* what);

/// Returns "[1, 3, 8, 8]".
std::string shape_text(const Shape& shape);

}  // namespace rdeic
