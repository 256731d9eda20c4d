#pragma once

// Owning n-dimensional buffers in C order: what stages hand to each other.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <new>
#include <span>
#include <utility>
#include <vector>

namespace rdeic {

using Shape = std::vector<std::int64_t>;

/// Returns a product of sizes. Throws std::bad_alloc, as an allocation would, if no memory has so many elements of 8
/// bytes: where addresses have 32 bits, what files and bundles ask for can be more.
inline std::size_t product_of(std::initializer_list<std::uint64_t> sizes) {
  std::uint64_t product = 1;
  for (const std::uint64_t size : sizes) {
    if (__builtin_mul_overflow(product, size, &product)) throw std::bad_alloc();
  }
  if (product > PTRDIFF_MAX / 8) throw std::bad_alloc();
  return static_cast<std::size_t>(product);
}

/// Returns the number of elements of a shape; its dimensions must be 0 or more. Throws as `product_of`.
inline std::size_t count_of(const Shape& shape) {
  std::size_t count = 1;
  for (const std::int64_t side : shape) count = product_of({count, static_cast<std::uint64_t>(side)});
  return count;
}

/// A buffer of T with a shape. Moves cheaply; copying must be asked for, by `clone`.
template <typename T>
class Tensor {
 public:
  Tensor() = default;

  /// Elements are not initialised: every stage writes all of what it makes.
  explicit Tensor(Shape shape) : shape_(std::move(shape)), size_(count_of(shape_)), data_(new T[size_]) {}

  Tensor(Tensor&&) noexcept = default;
  Tensor& operator=(Tensor&&) noexcept = default;

  Tensor clone() const {
    Tensor copy(shape_);
    std::copy_n(data_.get(), size_, copy.data_.get());
    return copy;
  }

  const Shape& shape() const { return shape_; }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  std::span<T> values() { return {data_.get(), size_}; }
  std::span<const T> values() const { return {data_.get(), size_}; }

 private:
  Shape shape_;
  std::size_t size_ = 0;
  std::unique_ptr<T[]> data_;
};

/// Returns zeros of the same shape.
template <typename T>
Tensor<T> zeros_like(const Tensor<T>& tensor) {
  Tensor<T> zeros(tensor.shape());
  std::fill_n(zeros.data(), zeros.size(), T{});
  return zeros;
}

}  // namespace rdeic
