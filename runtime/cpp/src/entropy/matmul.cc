#include "entropy/matmul.h"

#include <algorithm>
#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
#endif

namespace rdeic::entropy {
namespace {

// Of a fine input, acc = 32768 * high + 128 * low + 256 * fine (docs/format.md, "Integer layers").
constexpr int kHighShift = 15;
constexpr int kLowShift = 7;
constexpr int kFineShift = 8;

/// The body of every `Accumulate`, compiled once for each instruction set.
[[gnu::always_inline]] inline void accumulate_body(std::int64_t* t, std::size_t n, const std::int32_t* mult,
                                                   const std::int32_t* high, const std::int32_t* low,
                                                   const std::int32_t* fine) {
  if (low == nullptr) {
    for (std::size_t i = 0; i < n; ++i) t[i] += std::int64_t{high[i]} * std::int64_t{mult[i]};
    return;
  }
  for (std::size_t i = 0; i < n; ++i) {
    const std::int64_t by = mult[i];
    t[i] += ((std::int64_t{high[i]} * by) << kHighShift) + ((std::int64_t{low[i]} * by) << kLowShift) +
            ((std::int64_t{fine[i]} * by) << kFineShift);
  }
}

// Vectors of GCC and Clang, which become what the CPU has: SSE2, NEON, or nothing.
using Halves [[gnu::vector_size(2 * kBlock)]] = std::int16_t;
using Words [[gnu::vector_size(4 * kBlock)]] = std::int32_t;

/// Goes through all rows with the weights of one group at a time, as taking those apart costs more than multiplying
/// them.
void product_portable(std::span<const std::uint8_t* const> inputs, std::size_t stride, const PackedWeights& weights,
                      std::int32_t* out) {
  std::fill_n(out, inputs.size() * weights.columns(), 0);
  for (std::size_t block = 0; block < weights.blocks(); ++block) {
    const std::int8_t* w = weights.block(block);
    for (std::size_t at = 0; at < weights.segments() * weights.groups(); ++at, w += kBlock * kDepth) {
      Halves apart[kDepth];
      for (std::size_t d = 0; d < kDepth; ++d) {
        std::int16_t one_depth[kBlock];
        for (std::size_t i = 0; i < kBlock; ++i) one_depth[i] = w[kDepth * i + d];
        std::memcpy(&apart[d], one_depth, sizeof one_depth);
      }
      const std::size_t offset = at / weights.groups() * stride + at % weights.groups() * kDepth;
      std::int32_t* to = out + block * kBlock;
      for (const std::uint8_t* row : inputs) {
        const std::uint8_t* x = row + offset;
        // Products, and sums of two, fit 16 bits.
        const Halves first = apart[0] * std::int16_t{x[0]} + apart[1] * std::int16_t{x[1]};
        const Halves second = apart[2] * std::int16_t{x[2]} + apart[3] * std::int16_t{x[3]};
        Words sums;
        std::memcpy(&sums, to, sizeof sums);
        sums += __builtin_convertvector(first, Words) + __builtin_convertvector(second, Words);
        std::memcpy(to, &sums, sizeof sums);
        to += weights.columns();
      }
    }
  }
}

void accumulate_portable(std::int64_t* t, std::size_t n, const std::int32_t* mult, const std::int32_t* high,
                         const std::int32_t* low, const std::int32_t* fine) {
  accumulate_body(t, n, mult, high, low, fine);
}

#if defined(__x86_64__) || defined(__wasm_simd128__)

/// Calls tile(first row, row pointers) for rows in tiles of kRows; the last tile repeats its last row.
template <std::size_t kRows, typename Tile>
[[gnu::always_inline]] inline void for_tiles(std::span<const std::uint8_t* const> inputs, Tile tile) {
  for (std::size_t first = 0; first < inputs.size(); first += kRows) {
    std::array<const std::uint8_t*, kRows> rows;
    for (std::size_t r = 0; r < kRows; ++r) rows[r] = inputs[std::min(first + r, inputs.size() - 1)];
    tile(first, rows);
  }
}

#endif

#if defined(__x86_64__)

inline std::int32_t four_bytes(const std::uint8_t* x) {
  std::int32_t bytes;
  std::memcpy(&bytes, x, sizeof bytes);
  return bytes;
}

// 24 sums, two blocks of weights and one broadcast fill the 32 registers.
constexpr std::size_t kVnniRows = 12;

template <std::size_t kBlocks>
[[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]] void tile_vnni(
    const std::array<const std::uint8_t*, kVnniRows>& rows, std::size_t n_rows, std::size_t stride,
    const PackedWeights& weights, std::size_t block, std::int32_t* out) {
  __m512i sums[kVnniRows][kBlocks];
  for (auto& row : sums) {
    for (auto& sum : row) sum = _mm512_setzero_si512();
  }
  const std::int8_t* w[kBlocks];
  for (std::size_t b = 0; b < kBlocks; ++b) w[b] = weights.block(block + b);
  for (std::size_t segment = 0; segment < weights.segments(); ++segment) {
    for (std::size_t group = 0; group < weights.groups(); ++group) {
      __m512i loaded[kBlocks];
      for (std::size_t b = 0; b < kBlocks; ++b, w[b - 1] += kBlock * kDepth) loaded[b] = _mm512_loadu_si512(w[b]);
      const std::size_t at = segment * stride + group * kDepth;
#pragma GCC unroll 12
      for (std::size_t r = 0; r < kVnniRows; ++r) {
        const __m512i x = _mm512_set1_epi32(four_bytes(rows[r] + at));
#pragma GCC unroll 2
        for (std::size_t b = 0; b < kBlocks; ++b) sums[r][b] = _mm512_dpbusd_epi32(sums[r][b], x, loaded[b]);
      }
    }
  }
#pragma GCC unroll 12
  for (std::size_t r = 0; r < kVnniRows; ++r) {
    if (r >= n_rows) break;
#pragma GCC unroll 2
    for (std::size_t b = 0; b < kBlocks; ++b) {
      _mm512_storeu_si512(out + r * weights.columns() + (block + b) * kBlock, sums[r][b]);
    }
  }
}

void product_vnni(std::span<const std::uint8_t* const> inputs, std::size_t stride, const PackedWeights& weights,
                  std::int32_t* out) {
  for (std::size_t block = 0; block < weights.blocks();) {
    const bool two = block + 1 < weights.blocks();
    for_tiles<kVnniRows>(inputs, [&](std::size_t first, const auto& rows) {
      const std::size_t n_rows = std::min(kVnniRows, inputs.size() - first);
      (two ? tile_vnni<2> : tile_vnni<1>)(rows, n_rows, stride, weights, block, out + first * weights.columns());
    });
    block += two ? 2 : 1;
  }
}

[[gnu::target("avx512f,avx512bw,avx512vl,avx512dq")]] void accumulate_avx512(std::int64_t* t, std::size_t n,
                                                                             const std::int32_t* mult,
                                                                             const std::int32_t* high,
                                                                             const std::int32_t* low,
                                                                             const std::int32_t* fine) {
  accumulate_body(t, n, mult, high, low, fine);
}

// Eight sums, two halves of a block of weights, one broadcast and what is between them fit the 16 registers.
constexpr std::size_t kAvx2Rows = 4;

[[gnu::target("avx2")]] void tile_avx2(const std::array<const std::uint8_t*, kAvx2Rows>& rows, std::size_t n_rows,
                                       std::size_t stride, const PackedWeights& weights, std::size_t block,
                                       std::int32_t* out) {
  constexpr std::size_t kHalf = kBlock / 2;
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sums[kAvx2Rows][2];
  for (auto& row : sums) row[0] = row[1] = _mm256_setzero_si256();
  const std::int8_t* w = weights.block(block);
  for (std::size_t segment = 0; segment < weights.segments(); ++segment) {
    for (std::size_t group = 0; group < weights.groups(); ++group, w += kBlock * kDepth) {
      const __m256i loaded[2] = {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)),
                                 _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + kHalf * kDepth))};
      const std::size_t at = segment * stride + group * kDepth;
#pragma GCC unroll 4
      for (std::size_t r = 0; r < kAvx2Rows; ++r) {
        const __m256i x = _mm256_set1_epi32(four_bytes(rows[r] + at));
#pragma GCC unroll 2
        for (std::size_t half = 0; half < 2; ++half) {
          const __m256i pairs = _mm256_maddubs_epi16(x, loaded[half]);
          sums[r][half] = _mm256_add_epi32(sums[r][half], _mm256_madd_epi16(pairs, ones));
        }
      }
    }
  }
  for (std::size_t r = 0; r < n_rows; ++r) {
    for (std::size_t half = 0; half < 2; ++half) {
      std::int32_t* to = out + r * weights.columns() + block * kBlock + half * kHalf;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), sums[r][half]);
    }
  }
}

void product_avx2(std::span<const std::uint8_t* const> inputs, std::size_t stride, const PackedWeights& weights,
                  std::int32_t* out) {
  for (std::size_t block = 0; block < weights.blocks(); ++block) {
    for_tiles<kAvx2Rows>(inputs, [&](std::size_t first, const auto& rows) {
      const std::size_t n_rows = std::min(kAvx2Rows, inputs.size() - first);
      tile_avx2(rows, n_rows, stride, weights, block, out + first * weights.columns());
    });
  }
}

[[gnu::target("avx2")]] void accumulate_avx2(std::int64_t* t, std::size_t n, const std::int32_t* mult,
                                             const std::int32_t* high, const std::int32_t* low,
                                             const std::int32_t* fine) {
  accumulate_body(t, n, mult, high, low, fine);
}

#elif defined(__wasm_simd128__)

// Eight sums, a vector of weights and two of inputs fit the 16 registers of x86, which have most to do with it.
constexpr std::size_t kWasmRows = 3;

/// One half of a block: each vector of weights has those of two outputs, so that each sum is of half an output.
void tile_wasm(const std::array<const std::uint8_t*, kWasmRows>& rows, std::size_t n_rows, std::size_t stride,
               const PackedWeights& weights, std::size_t block, std::size_t half, std::int32_t* out) {
  constexpr std::size_t kHalf = kBlock / 2, kPairs = kHalf / 2;
  v128_t sums[kWasmRows][kPairs];
  for (auto& row : sums) {
    for (v128_t& sum : row) sum = wasm_i32x4_const_splat(0);
  }
  const std::int8_t* w = weights.block(block) + half * kHalf * kDepth;
  for (std::size_t segment = 0; segment < weights.segments(); ++segment) {
    for (std::size_t group = 0; group < weights.groups(); ++group, w += kBlock * kDepth) {
      const std::size_t at = segment * stride + group * kDepth;
      v128_t x[kWasmRows];
      for (std::size_t r = 0; r < kWasmRows; ++r) {
        x[r] = wasm_u16x8_extend_low_u8x16(wasm_v128_load32_splat(rows[r] + at));
      }
      for (std::size_t pair = 0; pair < kPairs; ++pair) {
        const v128_t loaded = wasm_i16x8_load8x8(w + 2 * kDepth * pair);
        for (std::size_t r = 0; r < kWasmRows; ++r) {
          sums[r][pair] = wasm_i32x4_add(sums[r][pair], wasm_i32x4_dot_i16x8(x[r], loaded));
        }
      }
    }
  }
  for (std::size_t r = 0; r < n_rows; ++r) {
    std::int32_t* to = out + r * weights.columns() + block * kBlock + half * kHalf;
    for (std::size_t pair = 0; pair < kPairs; pair += 2, to += 4) {
      const v128_t &a = sums[r][pair], &b = sums[r][pair + 1];
      wasm_v128_store(to, wasm_i32x4_add(wasm_i32x4_shuffle(a, b, 0, 2, 4, 6), wasm_i32x4_shuffle(a, b, 1, 3, 5, 7)));
    }
  }
}

void product_wasm(std::span<const std::uint8_t* const> inputs, std::size_t stride, const PackedWeights& weights,
                  std::int32_t* out) {
  for (std::size_t block = 0; block < weights.blocks(); ++block) {
    for (std::size_t half = 0; half < 2; ++half) {
      for_tiles<kWasmRows>(inputs, [&](std::size_t first, const auto& rows) {
        const std::size_t n_rows = std::min(kWasmRows, inputs.size() - first);
        tile_wasm(rows, n_rows, stride, weights, block, half, out + first * weights.columns());
      });
    }
  }
}

#endif

constexpr std::array kKernels = {
#if defined(__x86_64__)
    Kernels{"avx512-vnni", product_vnni, accumulate_avx512},
    Kernels{"avx2", product_avx2, accumulate_avx2},
#elif defined(__wasm_simd128__)
    Kernels{"simd128", product_wasm, accumulate_portable},
#endif
    Kernels{"portable", product_portable, accumulate_portable},
};

}  // namespace

std::span<const Kernels> available_kernels() {
  std::size_t first = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool vnni = __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  if (!vnni) first = __builtin_cpu_supports("avx2") ? 1 : 2;
#endif
  return std::span(kKernels).subspan(first);
}

PackedWeights::PackedWeights(std::span<const std::span<const std::int8_t>> weights, std::size_t segments,
                             std::size_t outputs)
    : segments_(segments) {
  const std::size_t rows = weights[0].size() / outputs;
  const std::size_t segment = rows / segments;
  groups_ = (segment + kDepth - 1) / kDepth;
  blocks_ = (weights.size() * outputs + kBlock - 1) / kBlock;
  data_.resize(blocks_ * segments_ * groups_ * kBlock * kDepth);
  for (std::size_t matrix = 0; matrix < weights.size(); ++matrix) {
    for (std::size_t row = 0; row < rows; ++row) {
      const std::size_t group = row / segment * groups_ + row % segment / kDepth;
      const std::size_t depth = row % segment % kDepth;
      for (std::size_t output = 0; output < outputs; ++output) {
        const std::size_t column = matrix * outputs + output;
        const std::size_t at = (column / kBlock * segments_ * groups_ + group) * kBlock + column % kBlock;
        data_[at * kDepth + depth] = weights[matrix][row * outputs + output];
      }
    }
  }
}

}  // namespace rdeic::entropy
