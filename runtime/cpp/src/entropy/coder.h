#pragma once

// Range decoding of integer symbols (docs/format.md, "Range coder" and "Symbols").
//
// A section is one binary fraction; a symbol is the part of the current interval that it lies in. There is exactly one
// section for given symbols, and `finish` checks that this is it, so that surplus or needlessly different bytes are
// found.

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace rdeic::entropy {

/// Masses of a distribution add up to 2^kPrecisionBits.
inline constexpr unsigned kPrecisionBits = 24;
inline constexpr std::uint32_t kTotalMass = 1U << kPrecisionBits;
/// Largest magnitude of a symbol; with it y_hat is exact in float32.
inline constexpr std::int32_t kMaxSymbol = 32767;

/// Products of two numbers that take as long as decoding a symbol.
inline constexpr std::uint64_t kProductsOfASymbol = 512;

/// A fixed distribution over `size` symbols, ready for look-ups by quantile.
class Distribution {
 public:
  /// `masses`: 2 to 65536 of them, each >= 1, of sum 2^24; the caller has checked.
  explicit Distribution(std::span<const std::int32_t> masses);

  std::size_t size() const { return left_.size() - 1; }
  std::uint32_t left(std::size_t symbol) const { return left_[symbol]; }
  std::uint32_t mass(std::size_t symbol) const { return left_[symbol + 1] - left_[symbol]; }
  /// Returns the symbol whose share holds this quantile, 0 <= quantile < 2^24.
  std::size_t symbol_of(std::uint32_t quantile) const;

 private:
  // Bits of a quantile that the index below is addressed with: 4 kB a table, and one or two comparisons are left.
  static constexpr unsigned kIndexBits = 10;

  std::vector<std::uint32_t> left_;  // sum of the masses before each symbol, and 2^24 at the end
  std::array<std::uint32_t, (1U << kIndexBits) + 1> first_;  // symbol of the lowest quantile with these high bits
};

/// The distribution of symbols of one scale: -radius ... radius, then an escape for all others.
struct GaussianTable {
  explicit GaussianTable(std::span<const std::int32_t> masses)
      : bins(masses), radius(static_cast<std::int32_t>(masses.size() / 2) - 1) {}

  Distribution bins;
  std::int32_t radius;
};

/// Reads symbols from one section; `finish` must be called after the last.
class SymbolDecoder {
 public:
  /// `data` must outlive the decoder; `what` names the section in messages.
  SymbolDecoder(std::span<const std::uint8_t> data, const char* what);

  /// Fills `symbols` with the next ones, 0 ... size - 1. Throws Error(kBitstream) if no symbols give these bytes.
  void get(const Distribution& distribution, std::span<std::int32_t> symbols);

  /// Fills `symbols` with the next group, -kMaxSymbol ... kMaxSymbol. Throws Error(kBitstream) likewise.
  void get_group(const GaussianTable& table, std::span<std::int32_t> symbols);

  /// Checks that the section holds what was decoded and nothing else; throws Error(kBitstream).
  void finish() const;

 private:
  std::uint32_t quantile() const;
  void consume(std::uint32_t left, std::uint32_t mass);
  std::uint32_t get_uniform(unsigned size_bits);
  std::uint32_t next_word();

  std::span<const std::uint8_t> data_;
  const char* what_;
  std::size_t at_ = 0;  // of the next word; may be past the end, where bytes are zero
  std::uint64_t lower_ = 0;
  std::uint64_t range_ = ~std::uint64_t{0};
  std::uint64_t point_ = 0;
};

/// Reads groups from a section that has lost its end, as far as they are certain: the same whatever the missing bytes
/// are (docs/format.md, "Truncated files").
class CutSymbolDecoder {
 public:
  /// `data`: what is left of a section that has lost `missing_bytes`, 1 or more.
  CutSymbolDecoder(std::span<const std::uint8_t> data, std::uint64_t missing_bytes, const char* what);

  /// Fills `symbols` and returns true if the next group is certain; false otherwise, and ever after.
  bool get_group(const GaussianTable& table, std::span<std::int32_t> symbols);

  /// Returns whether a group was asked for that is not certain.
  bool at_end() const { return at_end_; }

 private:
  std::vector<std::uint8_t> lowest_bytes_, highest_bytes_;  // the section, its end filled with 00 and with ff
  SymbolDecoder lowest_, highest_;
  std::vector<std::int32_t> other_;
  bool at_end_ = false;
};

/// Returns n values of `bits` bits each, most significant first (docs/format.md, "Indices"); Error(kBitstream) for
/// another length or padding bits that are not zero.
std::vector<std::int32_t> unpack_fixed(std::span<const std::uint8_t> data, std::size_t n, unsigned bits,
                                       const char* what);

}  // namespace rdeic::entropy
