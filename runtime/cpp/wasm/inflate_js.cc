#include "inflate_js.h"

#include <algorithm>
#include <array>

#include "imports.h"

namespace rdeic {
namespace {

Inflated inflated(std::span<const std::uint8_t> input, std::uint64_t limit_bytes, bool is_raw) {
  constexpr std::uint64_t kMost = std::uint64_t{1} << 53;
  Inflated result;
  const auto limit = static_cast<double>(std::min(limit_bytes, kMost));
  result.end = static_cast<Inflated::End>(rdeic_js_inflate(input.data(), input.size(), limit, is_raw));
  result.left_bytes = rdeic_js_inflated_left();
  std::array<char, 64> problem;
  rdeic_js_inflated_problem(problem.data(), problem.size());
  result.problem = problem.data();
  result.data.resize(rdeic_js_inflated_bytes());
  rdeic_js_inflated_take(result.data.data());
  return result;
}

}  // namespace

Inflated inflate_zlib(std::span<const std::uint8_t> input, std::uint64_t limit_bytes) {
  return inflated(input, limit_bytes, false);
}

Inflated inflate_raw(std::span<const std::uint8_t> input, std::uint64_t limit_bytes) {
  return inflated(input, limit_bytes, true);
}

}  // namespace rdeic
