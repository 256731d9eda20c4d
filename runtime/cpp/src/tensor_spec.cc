#include "tensor_spec.h"

#include <algorithm>
#include <charconv>

#include "status.h"

namespace rdeic {
namespace {

constexpr const char* kNames[] = {"", "batch", "hz", "wz"};  // by Dim::Free

const char* name_of(Dim::Free free) { return kNames[static_cast<std::size_t>(free)]; }

std::string text_of(const Dim& dim) {
  if (dim.is_fixed()) return std::to_string(dim.factor);
  return (dim.factor == 1 ? "" : std::to_string(dim.factor) + "*") + name_of(dim.free);
}

/// Returns the first dimension that is a multiple of hz, or the end.
std::vector<Dim>::const_iterator first_rows(const std::vector<Dim>& shape) {
  return std::find_if(shape.begin(), shape.end(), [](const Dim& dim) { return dim.free == Dim::Free::kRows; });
}

}  // namespace

std::optional<Dim> free_dim(const std::string& text) {
  constexpr std::size_t kMostDigits = 4;
  std::string_view name = text;
  std::int64_t factor = 1;
  if (const std::size_t star = name.find('*'); star != std::string_view::npos) {
    const std::string_view digits = name.substr(0, star);
    name.remove_prefix(star + 1);
    const bool is_factor = !digits.empty() && digits.size() <= kMostDigits && digits[0] != '0' && digits != "1" &&
                           digits.find_first_not_of("0123456789") == std::string_view::npos;
    if (!is_factor) return {};
    std::from_chars(digits.data(), digits.data() + digits.size(), factor);
  }
  for (const Dim::Free free : {Dim::Free::kBatch, Dim::Free::kRows, Dim::Free::kColumns}) {
    if (name == name_of(free)) return Dim{free, factor};
  }
  return {};
}

std::optional<TensorGrid> TensorSpec::grid() const {
  const auto rows = first_rows(shape);
  if (rows == shape.end()) return {};
  return TensorGrid{static_cast<std::size_t>(rows - shape.begin()), static_cast<std::uint32_t>(rows->factor)};
}

Shape TensorSpec::resolve(const Sizes& sizes) const {
  Shape result;
  for (const Dim& dim : shape) {
    switch (dim.free) {
      case Dim::Free::kNone:
        result.push_back(dim.factor);
        break;
      case Dim::Free::kBatch:
        result.push_back(dim.factor * sizes.batch);
        break;
      case Dim::Free::kRows:
        result.push_back(dim.factor * sizes.hz);
        break;
      case Dim::Free::kColumns:
        result.push_back(dim.factor * sizes.wz);
        break;
    }
  }
  return result;
}

void TensorSpec::read_sizes(const Shape& sides, Sizes& sizes) const {
  for (std::size_t axis = 0; axis < std::min(shape.size(), sides.size()); ++axis) {
    const std::int64_t size = sides[axis] / shape[axis].factor;
    if (shape[axis].free == Dim::Free::kBatch) sizes.batch = size;
    if (shape[axis].free == Dim::Free::kRows) sizes.hz = size;
    if (shape[axis].free == Dim::Free::kColumns) sizes.wz = size;
  }
}

std::optional<std::string> TensorSpec::fault(std::uint32_t unit_px) const {
  const std::string where = printable(name) + " is " + description() + ": ";
  const auto count = [this](Dim::Free free) {
    return std::count_if(shape.begin(), shape.end(), [=](const Dim& dim) { return dim.free == free; });
  };
  if (count(Dim::Free::kBatch) > 1 || std::any_of(shape.begin(), shape.end(), [](const Dim& dim) {
        return dim.free == Dim::Free::kBatch && dim.factor != 1;
      })) {
    return where + "there is one batch, without a factor";
  }
  if (count(Dim::Free::kRows) == 0 && count(Dim::Free::kColumns) == 0) return {};
  if (count(Dim::Free::kRows) != 1 || count(Dim::Free::kColumns) != 1) return where + "hz and wz come together, once";
  const auto rows = first_rows(shape), columns = std::next(rows);
  if (columns == shape.end() || *columns != Dim{Dim::Free::kColumns, rows->factor}) {
    return where + "hz and wz are neighbours, in this order, and have one factor";
  }
  if (unit_px % rows->factor != 0) {
    return where + std::to_string(rows->factor) + " does not divide size_multiple_px, " + std::to_string(unit_px);
  }
  return {};
}

std::string TensorSpec::description() const {
  std::string text = std::string(dtype_name(dtype)) + " [";
  for (std::size_t axis = 0; axis < shape.size(); ++axis) text += (axis > 0 ? ", " : "") + text_of(shape[axis]);
  return text + "]";
}

}  // namespace rdeic
