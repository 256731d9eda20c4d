#include "entropy/tables.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "status.h"

namespace rdeic::entropy {
namespace {

constexpr std::size_t kMaxPrior = std::size_t{1} << 16;

void check_masses(const ModelReader& reader, std::span<const std::int32_t> masses, const std::string& what) {
  reader.check(std::ranges::all_of(masses, [](std::int32_t mass) { return mass >= 1; }), what + " has a mass under 1");
  const std::int64_t total = std::accumulate(masses.begin(), masses.end(), std::int64_t{0});
  reader.check(total == kTotalMass,
               text("%s adds up to %lld, should be %u", what.c_str(), static_cast<long long>(total), kTotalMass));
}

std::array<std::int32_t, kScales - 1> read_thresholds(ModelReader& reader) {
  const auto read = reader.take<std::int32_t>("scale_thresholds", {kScales - 1});
  reader.check(std::ranges::adjacent_find(read, std::greater_equal<>()) == read.end(),
               "'scale_thresholds' do not rise");
  std::array<std::int32_t, kScales - 1> thresholds;
  std::ranges::copy(read, thresholds.begin());
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

Distribution read_prior(ModelReader& reader) {
  const auto masses = reader.take<std::int32_t>("prior_masses", {kAnyLength});
  reader.check(2 <= masses.size() && masses.size() <= kMaxPrior,
               text("'prior_masses' has %zu elements, should have 2 to %zu", masses.size(), kMaxPrior));
  check_masses(reader, masses, "'prior_masses'");
  return Distribution(masses);
}

}  // namespace

Tables::Tables(ModelReader& reader)
    : thresholds_(read_thresholds(reader)),
      skip_below_(static_cast<std::size_t>(reader.number("skip_below", 0, kScales - 1))),
      gaussians_(read_gaussians(reader)),
      prior_(read_prior(reader)),
      plain_bits_(static_cast<unsigned>(std::bit_width(prior_.size() - 1))) {}

std::uint8_t Tables::scale_index(std::int32_t scale) const {
  // Most symbols are not coded, and one comparison tells.
  if (skip_below_ > 0 && scale <= thresholds_[skip_below_ - 1]) return 0;
  return static_cast<std::uint8_t>(std::ranges::lower_bound(thresholds_, scale) - thresholds_.begin());
}

}  // namespace rdeic::entropy
