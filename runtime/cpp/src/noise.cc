#include "noise.h"

#include <array>
#include <cmath>
#include <numbers>

namespace rdeic {
namespace {

using Block = std::array<std::uint64_t, 4>;
__extension__ typedef unsigned __int128 Wide;  // of GCC and Clang; there is no other product of 128 bits to be had

/// Returns block n of Philox 4x64 with ten rounds (Salmon et al., SC11).
Block philox(std::uint64_t n, std::uint64_t k0, std::uint64_t k1) {
  Block c = {n, 0, 0, 0};
  for (int round = 0; round < 10; ++round) {
    const Wide p0 = Wide{0xD2E7470EE14C6C93} * c[0];
    const Wide p1 = Wide{0xCA5A826395121157} * c[2];
    c = {static_cast<std::uint64_t>(p1 >> 64) ^ c[1] ^ k0, static_cast<std::uint64_t>(p1),
         static_cast<std::uint64_t>(p0 >> 64) ^ c[3] ^ k1, static_cast<std::uint64_t>(p0)};
    k0 += 0x9E3779B97F4A7C15;
    k1 += 0xBB67AE8584CAA73B;
  }
  return c;
}

/// Box-Muller in double precision: two raw numbers to two values.
std::array<float, 2> normal_pair(std::uint64_t r0, std::uint64_t r1) {
  const double u1 = static_cast<double>((r0 >> 11) + 1) * 0x1p-53;  // in (0, 1]
  const double u2 = static_cast<double>(r1 >> 11) * 0x1p-53;        // in [0, 1)
  const double radius = std::sqrt(-2.0 * std::log(u1));
  const double angle = (2.0 * std::numbers::pi) * u2;
  return {static_cast<float>(radius * std::cos(angle)), static_cast<float>(radius * std::sin(angle))};
}

}  // namespace

Tensor<float> gaussian(const Shape& shape, std::uint64_t seed, std::uint64_t draw) {
  Tensor<float> noise(shape);
  float* out = noise.data();
  const std::size_t count = noise.size();
  std::uint64_t n = 0;  // the first block has number 1
  for (std::size_t at = 0; at < count; at += 4) {
    const Block raw = philox(++n, seed, draw);
    for (std::size_t pair = 0; pair < 4 && at + pair < count; pair += 2) {
      const auto [first, second] = normal_pair(raw[pair], raw[pair + 1]);
      out[at + pair] = first;
      if (at + pair + 1 < count) out[at + pair + 1] = second;
    }
  }
  return noise;
}

}  // namespace rdeic
