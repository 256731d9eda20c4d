#include "entropy/order.h"

#include <algorithm>
#include <array>

namespace rdeic::entropy {

Grid<std::uint16_t> squeeze(View<const std::uint16_t> grid, Pass pass) {
  Grid<std::uint16_t> half(grid.height, grid.width / 2, grid.channels);
  std::uint16_t* out = half.values().data();
  for (std::size_t row = 0; row < half.height(); ++row) {
    for (std::size_t column = 0; column < half.width(); ++column) {
      out = std::copy_n(grid.at(row, column_of(pass, row, column)), grid.channels, out);
    }
  }
  return half;
}

Groups::Groups(std::span<const std::uint8_t> scale_indices, std::size_t skip_below) {
  // A counting sort, which keeps the order of equal indices.
  std::array<std::uint32_t, 256> counts{};
  for (const std::uint8_t index : scale_indices) ++counts[index];
  std::array<std::uint32_t, 256> next{};
  std::uint32_t n_coded = 0;
  for (std::size_t index = skip_below; index < counts.size(); ++index) {
    next[index] = n_coded;
    n_coded += counts[index];
  }
  ordered_.resize(n_coded);
  for (std::uint32_t number = 0; number < scale_indices.size(); ++number) {
    if (scale_indices[number] >= skip_below) ordered_[next[scale_indices[number]]++] = number;
  }
  for (std::size_t index = skip_below; index < counts.size(); ++index) {
    if (counts[index] == 0) continue;
    const std::span<const std::uint32_t> all(ordered_);
    groups_.push_back({static_cast<std::uint8_t>(index), all.subspan(next[index] - counts[index], counts[index])});
  }
}

}  // namespace rdeic::entropy
