#include "entropy/coder.h"

#include <algorithm>
#include <bit>

#include "status.h"

namespace rdeic::entropy {
namespace {

constexpr std::size_t kStateBytes = 8;
constexpr std::size_t kWordBytes = 4;
// An escape is a prefix of 32 equal masses, 2 * e + sign, then the e low bits of the excess.
constexpr unsigned kPrefixBits = 5;
constexpr const char* kHint = "The file is damaged, or was written with another model; fetch it again";

/// Returns the value of an interval of 64-bit numbers that has the most zero bits at its end; the interval goes on from
/// 0 where it passes the largest number, and 0 has more zero bits than any other.
std::uint64_t roundest(std::uint64_t lower, std::uint64_t range) {
  const std::uint64_t last = lower + (range - 1);
  if (lower == 0 || last < lower) return 0;
  // The bits below the highest one in which the number before the interval and its last differ can all be zero.
  const auto free_bits = std::bit_width((lower - 1) ^ last) - 1;
  return last >> free_bits << free_bits;
}

std::vector<std::uint8_t> filled(std::span<const std::uint8_t> data, std::uint64_t missing_bytes, std::uint8_t fill) {
  // The decoder looks at 8 bytes at a time: where those are all unknown the two ends differ, whatever follows.
  const std::size_t unknown = static_cast<std::size_t>(std::min<std::uint64_t>(missing_bytes, 2 * kStateBytes));
  std::vector<std::uint8_t> bytes(data.begin(), data.end());
  bytes.resize(data.size() + unknown, fill);
  return bytes;
}

}  // namespace

Distribution::Distribution(std::span<const std::int32_t> masses) : left_(masses.size() + 1) {
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < masses.size(); ++i) {
    left_[i] = sum;
    sum += static_cast<std::uint32_t>(masses[i]);
  }
  left_[masses.size()] = sum;
  std::uint32_t symbol = 0;
  for (std::uint32_t high = 0; high < first_.size() - 1; ++high) {
    while (left_[symbol + 1] <= high << (kPrecisionBits - kIndexBits)) ++symbol;
    first_[high] = symbol;
  }
  first_.back() = static_cast<std::uint32_t>(masses.size() - 1);
}

std::size_t Distribution::symbol_of(std::uint32_t quantile) const {
  const std::uint32_t high = quantile >> (kPrecisionBits - kIndexBits);
  // The symbol is one of first_[high] ... first_[high + 1]; what is looked for is the first `left` above the quantile.
  const auto from = left_.begin() + static_cast<std::ptrdiff_t>(first_[high]) + 1;
  const auto to = left_.begin() + static_cast<std::ptrdiff_t>(first_[high + 1]) + 1;
  return static_cast<std::size_t>(std::upper_bound(from, to, quantile) - left_.begin()) - 1;
}

SymbolDecoder::SymbolDecoder(std::span<const std::uint8_t> data, const char* what) : data_(data), what_(what) {
  point_ = std::uint64_t{next_word()} << 32;
  point_ |= next_word();
}

std::uint32_t SymbolDecoder::next_word() {
  std::uint32_t word = 0;
  for (std::size_t i = 0; i < kWordBytes; ++i, ++at_) word = word << 8 | (at_ < data_.size() ? data_[at_] : 0U);
  return word;
}

std::uint32_t SymbolDecoder::quantile() const {
  const std::uint64_t quantile = (point_ - lower_) / (range_ >> kPrecisionBits);
  if (quantile >= kTotalMass) {
    fail(Result::kBitstream, "%s: no symbols give these %zu bytes. %s", what_, data_.size(), kHint);
  }
  return static_cast<std::uint32_t>(quantile);
}

void SymbolDecoder::consume(std::uint32_t left, std::uint32_t mass) {
  const std::uint64_t scale = range_ >> kPrecisionBits;
  lower_ += scale * left;
  range_ = scale * mass;
  if (range_ >> 32 == 0) {
    lower_ <<= 32;
    range_ <<= 32;
    point_ = point_ << 32 | next_word();
  }
}

void SymbolDecoder::get(const Distribution& distribution, std::span<std::int32_t> symbols) {
  for (std::int32_t& symbol : symbols) {
    const std::size_t found = distribution.symbol_of(quantile());
    consume(distribution.left(found), distribution.mass(found));
    symbol = static_cast<std::int32_t>(found);
  }
}

std::uint32_t SymbolDecoder::get_uniform(unsigned size_bits) {
  const unsigned mass_bits = kPrecisionBits - size_bits;
  const std::uint32_t symbol = quantile() >> mass_bits;
  consume(symbol << mass_bits, 1U << mass_bits);
  return symbol;
}

void SymbolDecoder::get_group(const GaussianTable& table, std::span<std::int32_t> symbols) {
  get(table.bins, symbols);
  const std::int32_t escape = 2 * table.radius + 1;
  std::vector<std::size_t> escaped;
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    if (symbols[i] == escape) escaped.push_back(i);
    symbols[i] -= table.radius;
  }
  std::vector<std::uint32_t> prefixes(escaped.size());
  for (std::uint32_t& prefix : prefixes) prefix = get_uniform(kPrefixBits);
  for (std::size_t i = 0; i < escaped.size(); ++i) {
    const unsigned exponent = prefixes[i] >> 1;
    std::uint32_t excess = 1U << exponent;
    if (exponent > 0) excess += get_uniform(exponent);
    const std::int32_t magnitude = table.radius + static_cast<std::int32_t>(excess);
    if (magnitude > kMaxSymbol) {
      fail(Result::kBitstream, "%s: symbol of magnitude %d, over %d. %s", what_, magnitude, kMaxSymbol, kHint);
    }
    symbols[escaped[i]] = (prefixes[i] & 1U) != 0 ? -magnitude : magnitude;
  }
}

void SymbolDecoder::finish() const {
  const bool ends_in_zero = !data_.empty() && data_.back() == 0;
  if (ends_in_zero || data_.size() > at_ || point_ != roundest(lower_, range_)) {
    fail(Result::kBitstream, "%s: other bytes than these %zu for the symbols decoded from it. %s", what_, data_.size(),
         kHint);
  }
}

CutSymbolDecoder::CutSymbolDecoder(std::span<const std::uint8_t> data, std::uint64_t missing_bytes, const char* what)
    : lowest_bytes_(filled(data, missing_bytes, 0x00)),
      highest_bytes_(filled(data, missing_bytes, 0xff)),
      lowest_(lowest_bytes_, what),
      highest_(highest_bytes_, what) {}

bool CutSymbolDecoder::get_group(const GaussianTable& table, std::span<std::int32_t> symbols) {
  if (at_end_) return false;
  other_.resize(symbols.size());
  try {
    lowest_.get_group(table, symbols);
    highest_.get_group(table, other_);
    at_end_ = !std::equal(symbols.begin(), symbols.end(), other_.begin(), other_.end());
  } catch (const Error& error) {
    if (error.result() != Result::kBitstream) throw;
    at_end_ = true;  // of a value that no encoder writes: at least one of the two is not the file's
  }
  return !at_end_;
}

std::vector<std::int32_t> unpack_fixed(std::span<const std::uint8_t> data, std::size_t n, unsigned bits,
                                       const char* what) {
  const std::size_t n_bytes = (n * bits + 7) / 8;
  if (data.size() != n_bytes) {
    fail(Result::kBitstream, "%s: %zu bytes, %zu values of %u bits take %zu. %s", what, data.size(), n, bits, n_bytes,
         kHint);
  }
  std::vector<std::int32_t> values(n);
  std::size_t at = 0;
  std::uint32_t held = 0;
  unsigned n_held = 0;  // bits; held has no others
  for (std::int32_t& value : values) {
    for (; n_held < bits; n_held += 8) held = held << 8 | data[at++];
    n_held -= bits;
    value = static_cast<std::int32_t>(held >> n_held);
    held &= (1U << n_held) - 1;
  }
  if (held != 0) fail(Result::kBitstream, "%s: the bits after the last of %zu values are not zero. %s", what, n, kHint);
  return values;
}

}  // namespace rdeic::entropy
