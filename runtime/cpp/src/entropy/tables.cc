#include "entropy/tables.h"

#include <algorithm>

#include "status.h"

namespace rdeic::entropy {
namespace {

std::array<std::int32_t, kScales - 1> read_thresholds(ModelReader& reader) {
  const auto read = reader.take<std::int32_t>("scale_thresholds", {kScales - 1});
  reader.check(std::adjacent_find(read.begin(), read.end(), std::greater_equal<>()) == read.end(),
               "'scale_thresholds' do not rise");
  std::array<std::int32_t, kScales - 1> thresholds;
  std::copy(read.begin(), read.end(), thresholds.begin());
  return thresholds;
}

std::vector<GaussianTable> read_gaussians(ModelReader& reader) {
  const auto lengths = reader.take<std::int32_t>("scale_lengths", {kScales});
  std::uint64_t total = 0;
  for (const std::int32_t length : lengths) {
    reader.check(length % 2 == 0 && 4 <= length && length <= 2 * kMaxSymbol,
                 text("'scale_lengths' are not all even numbers from 4 to %d", 2 * kMaxSymbol));
    total += static_cast<std::uint64_t>(length);
  }
  auto left = reader.take<std::int32_t>("scale_masses", {total});
  std::vector<GaussianTable> gaussians;
  gaussians.reserve(kScales);
  for (std::size_t index = 0; index < kScales; ++index) {
    const auto masses = left.first(static_cast<std::size_t>(lengths[index]));
    left = left.subspan(masses.size());
    check_masses(reader, masses, text("table %zu of 'scale_masses'", index));
    gaussians.emplace_back(masses);
  }
  return gaussians;
}

}  // namespace

Tables::Tables(ModelReader& reader)
    : thresholds_(read_thresholds(reader)),
      skip_below_(static_cast<std::size_t>(reader.number("skip_below", 0, kScales - 1))),
      gaussians_(read_gaussians(reader)),
      indices_(reader) {}

std::uint8_t Tables::scale_index(std::int32_t scale) const {
  // Most symbols are not coded, and one comparison tells.
  if (skip_below_ > 0 && scale <= thresholds_[skip_below_ - 1]) return 0;
  return static_cast<std::uint8_t>(std::lower_bound(thresholds_.begin(), thresholds_.end(), scale) -
                                   thresholds_.begin());
}

}  // namespace rdeic::entropy
