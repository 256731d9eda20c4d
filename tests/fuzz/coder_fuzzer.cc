// Any section decodes to symbols in range, or to an Error; and a section that is accepted is accepted with no byte
// fewer.
//
// The first byte tells how many symbols a group has, the second how many groups there are; the rest is the section.

#include <algorithm>
#include <array>
#include <cstdlib>
#include <vector>

#include "entropy/coder.h"
#include "status.h"

namespace {

using namespace rdeic::entropy;

/// Tables of a flat, a steep and a long distribution, the last with many escapes.
const std::array<GaussianTable, 3>& tables() {
  static const auto made = [] {
    std::vector<std::int32_t> flat(64, 1 << 18), steep = {100, 1024, 16772968, 1024, 100, 2000}, wide(65534, 1);
    wide.back() = (1 << 24) - 65533;
    return std::array{GaussianTable(flat), GaussianTable(steep), GaussianTable(wide)};
  }();
  return made;
}

bool decodes(std::span<const std::uint8_t> section, std::size_t n, std::size_t groups) {
  try {
    SymbolDecoder decoder(section, "section");
    std::vector<std::int32_t> symbols(n);
    for (std::size_t group = 0; group < groups; ++group) {
      decoder.get_group(tables()[group % 3], symbols);
      if (std::ranges::any_of(symbols, [](std::int32_t s) { return std::abs(s) > kMaxSymbol; })) __builtin_trap();
    }
    decoder.finish();
    return true;
  } catch (const rdeic::Error&) {
    return false;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  if (bytes < 2) return 0;
  const std::size_t n = data[0], groups = data[1];
  const std::span section(data + 2, bytes - 2);
  const bool whole = decodes(section, n, groups);
  if (whole && !section.empty() && decodes(section.first(section.size() - 1), n, groups)) {
    // The shorter one is other symbols' section: two lengths for the same ones there are not. Both may be right.
    std::vector<std::int32_t> a(n), b(n);
    bool same = true;
    SymbolDecoder longer(section, "section"), shorter(section.first(section.size() - 1), "section");
    for (std::size_t group = 0; group < groups; ++group) {
      longer.get_group(tables()[group % 3], a);
      shorter.get_group(tables()[group % 3], b);
      same = same && a == b;
    }
    if (same) __builtin_trap();
  }
  CutSymbolDecoder cut(section, 1 + n, "section");
  std::vector<std::int32_t> symbols(n);
  for (std::size_t group = 0; group < groups && cut.get_group(tables()[group % 3], symbols); ++group) {
  }
  return 0;
}
