#include "value.h"

#include <cstring>

#include "status.h"

namespace rdeic {

HostValue::HostValue(DType dtype, Shape shape) : dtype_(dtype), shape_(std::move(shape)) {
  // Storage from operator new is aligned for all types of elements.
  const std::shared_ptr<std::byte[]> bytes(new std::byte[product_of({count_of(shape_), dtype_bytes(dtype)})]);
  data_ = {bytes, bytes.get()};
}

ValuePtr zeros_like(const Value& value) {
  auto zeros = std::make_shared<HostValue>(value.dtype(), value.shape());
  std::memset(zeros->data(), 0, count_of(value.shape()) * dtype_bytes(value.dtype()));  // 0 in every type
  return zeros;
}

template <typename T>
std::span<const T> elements(const Value& value, const char* what) {
  if (value.data() == nullptr) fail(Result::kInternal, "%s is not on the host", what);
  if (value.dtype() != dtype_of<T>()) {
    fail(Result::kBundleCorrupt, "%s is %s, should be %s", what, dtype_name(value.dtype()), dtype_name(dtype_of<T>()));
  }
  return {reinterpret_cast<const T*>(value.data()), count_of(value.shape())};
}
template std::span<const float> elements(const Value&, const char*);
template std::span<const std::uint8_t> elements(const Value&, const char*);
template std::span<const std::int64_t> elements(const Value&, const char*);

std::string shape_text(const Shape& shape) {
  std::string text = "[";
  for (const std::int64_t side : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(side);
  return text + "]";
}

}  // namespace rdeic
