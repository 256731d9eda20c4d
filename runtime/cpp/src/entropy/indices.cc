#include "entropy/indices.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "status.h"

namespace rdeic::entropy {
namespace {

constexpr std::size_t kMaxCodes = std::size_t{1} << 16;

Distribution read_prior(ModelReader& reader) {
  const auto masses = reader.take<std::int32_t>("prior_masses", {kAnyLength});
  reader.check(2 <= masses.size() && masses.size() <= kMaxCodes,
               text("'prior_masses' has %zu elements, should have 2 to %zu", masses.size(), kMaxCodes));
  check_masses(reader, masses, "'prior_masses'");
  return Distribution(masses);
}

}  // namespace

void check_masses(const ModelReader& reader, std::span<const std::int32_t> masses, const std::string& what) {
  reader.check(*std::min_element(masses.begin(), masses.end()) >= 1, what + " has a mass under 1");
  const std::int64_t total = std::accumulate(masses.begin(), masses.end(), std::int64_t{0});
  reader.check(total == kTotalMass,
               text("%s adds up to %lld, should be %u", what.c_str(), static_cast<long long>(total), kTotalMass));
}

IndexCoder::IndexCoder(ModelReader& reader)
    : prior_(read_prior(reader)), plain_bits_(static_cast<unsigned>(std::bit_width(prior_.size() - 1))) {}

std::vector<std::int32_t> IndexCoder::decode(const File& file, std::size_t count) const {
  constexpr const char* kWhat = "z section";
  if (!file.header.z_is_plain) {
    std::vector<std::int32_t> indices(count);
    SymbolDecoder decoder(file.z, kWhat);
    decoder.get(prior_, indices);
    decoder.finish();
    return indices;
  }
  std::vector<std::int32_t> indices = unpack_fixed(file.z, count, plain_bits_, kWhat);
  const std::int32_t largest = *std::max_element(indices.begin(), indices.end());
  if (static_cast<std::size_t>(largest) >= n_codes()) {
    fail(Result::kBitstream, "%s: index %d, but the model has %zu code vectors", kWhat, largest, n_codes());
  }
  return indices;
}

}  // namespace rdeic::entropy
