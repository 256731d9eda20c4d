#include "entropy/layers.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>

namespace rdeic::entropy {
namespace {

constexpr int kMaxWeight = 64;
// What a weight u counts for beside v in a fine input.
constexpr int kFineHigh = 128;
constexpr std::size_t kLutSize = 4096;
// With fewer products than this in a sum, it fits 32 bits: 2^17 * 255 * 64 < 2^31.
constexpr std::size_t kMaxProducts = std::size_t{1} << 17;
// Positions that a thread works on at a time: what is between two steps then stays in the cache.
constexpr std::size_t kBand = 96;
// Of the largest layers, some hundredths of a second on one core.
constexpr std::size_t kBandsAtOnce = 16;

Requantisation read_requantisation(ModelReader& reader, const std::string& name, std::size_t outputs) {
  const auto offset = reader.take<std::int64_t>(name + ".offset", {outputs});
  const auto shift = static_cast<unsigned>(reader.number(name + ".shift", 0, 62));
  return {{offset.begin(), offset.end()}, shift};
}

/// Checks that no sum can leave 64 bits, given the largest magnitude of what an offset is added to.
void check_bound(const ModelReader& reader, const std::string& name, double bound, std::int64_t offset) {
  reader.check(bound + std::abs(static_cast<double>(offset)) < 0x1p62, "'" + name + "' could exceed 64 bits");
}

void check_weights(const ModelReader& reader, const std::string& name, std::span<const std::int8_t> weights) {
  const auto [least, most] = std::minmax_element(weights.begin(), weights.end());
  reader.check(-kMaxWeight <= *least && *most <= kMaxWeight, "'" + name + "' or its low part has a value beyond +-64");
}

std::vector<std::uint8_t> padded_plane(View<const std::uint16_t> grid, std::span<const std::uint16_t> zero,
                                       std::size_t margin, int shift) {
  const std::size_t width = grid.width + 2 * margin;
  const std::size_t row_bytes = width * grid.channels;
  // Kernels read up to kDepth - 1 bytes after the last that counts.
  std::vector<std::uint8_t> plane(product_of({grid.height + 2 * margin, width, grid.channels}) + kDepth - 1);
  const auto pad = [&](std::uint8_t* to, std::size_t positions) {
    for (std::size_t i = 0; i < positions; ++i) {
      for (std::size_t c = 0; c < grid.channels; ++c) *to++ = static_cast<std::uint8_t>(zero[c] >> shift);
    }
  };
  if (margin > 0) {
    pad(plane.data(), margin * width);
    pad(plane.data() + (grid.height + margin) * row_bytes, margin * width);
  }
  for (std::size_t row = 0; row < grid.height; ++row) {
    std::uint8_t* to = plane.data() + (row + margin) * row_bytes;
    if (margin > 0) pad(to, margin);
    to += margin * grid.channels;
    const std::uint16_t* from = grid.at(row, 0);
    // Channels that lie side by side are one long run, which is faster than many short ones.
    const bool dense = grid.pitch == grid.channels;
    const std::size_t runs = dense ? 1 : grid.width;
    const std::size_t run = dense ? grid.width * grid.channels : grid.channels;
    for (std::size_t i = 0; i < runs; ++i, from += grid.pitch) {
      for (std::size_t c = 0; c < run; ++c) to[c] = static_cast<std::uint8_t>(from[c] >> shift);
      to += run;
    }
    if (margin > 0) pad(to, margin);
  }
  return plane;
}

}  // namespace

Input::Input(ModelReader& reader, const std::string& name, std::size_t channels, std::size_t outputs)
    : channels_(channels) {
  const auto weight = reader.take<std::int8_t>(name + ".weight", {kAnyLength, kAnyLength, channels, outputs});
  const auto& shape = reader.shape(name + ".weight");
  kernel_ = static_cast<std::size_t>(shape[0]);
  reader.check(shape[0] == shape[1] && (kernel_ == 1 || kernel_ == 3 || kernel_ == 5),
               "'" + name + ".weight' is no kernel of 1x1, 3x3 or 5x5");
  outputs = static_cast<std::size_t>(shape[3]);
  check_weights(reader, name + ".weight", weight);
  std::vector parts = {weight};
  fine_ = reader.contains(name + ".weight_low");
  if (fine_) {
    parts.push_back(reader.take<std::int8_t>(name + ".weight_low", {shape[0], shape[1], shape[2], shape[3]}));
    check_weights(reader, name + ".weight", parts[1]);
  }
  reader.check(kernel_ * kernel_ * channels < kMaxProducts, "'" + name + "' sums over 2^17 products");
  const auto mult = reader.take<std::int32_t>(name + ".mult", {outputs});
  mult_.assign(mult.begin(), mult.end());
  if (kernel_ > 1) {
    const auto zero = reader.take<std::uint16_t>(name + ".zero", {channels});
    zero_.assign(zero.begin(), zero.end());
  }
  of_high_.emplace(parts, kernel_, outputs);
  if (fine_) of_low_.emplace(std::span(parts).first(1), kernel_, outputs);
}

double Input::bound(std::size_t output) const {
  const double largest = fine_ ? double{kMaxLevel} * (kFineHigh + 1) : double{kMaxLevel >> 8};
  const auto products = static_cast<double>(kernel_ * kernel_ * channels_);
  return largest * kMaxWeight * products * std::abs(static_cast<double>(mult_[output]));
}

Input::Planes Input::planes(View<const std::uint16_t> grid) const {
  const std::size_t margin = kernel_ / 2;
  Planes planes;
  planes.width = grid.width + 2 * margin;
  planes.high = padded_plane(grid, zero_, margin, 8);
  if (fine_) planes.low = padded_plane(grid, zero_, margin, 0);
  return planes;
}

void Input::add(const Kernels& kernels, const Planes& planes, std::span<const Position> positions, std::int64_t* t,
                std::vector<std::int32_t>& sums) const {
  std::array<const std::uint8_t*, kBand> windows;
  const std::size_t n = positions.size();
  const std::size_t row_bytes = planes.width * channels_;
  const auto multiply = [&](const std::vector<std::uint8_t>& plane, const PackedWeights& weights, std::int32_t* out) {
    for (std::size_t i = 0; i < n; ++i) {
      windows[i] = plane.data() + positions[i].row * row_bytes + positions[i].column * channels_;
    }
    kernels.product(std::span(windows).first(n), row_bytes, weights, out);
  };
  const std::size_t columns = of_high_->columns();
  const std::size_t low_columns = fine_ ? of_low_->columns() : 0;
  sums.resize(std::max(sums.size(), n * (columns + low_columns)));
  std::int32_t* const high = sums.data();
  std::int32_t* const low = high + n * columns;
  multiply(planes.high, *of_high_, high);
  if (fine_) multiply(planes.low, *of_low_, low);
  for (std::size_t i = 0; i < n; ++i) {
    const std::int32_t* of_high = high + i * columns;
    kernels.accumulate(t + i * outputs(), outputs(), mult_.data(), of_high, fine_ ? low + i * low_columns : nullptr,
                       fine_ ? of_high + outputs() : nullptr);
  }
}

Layer::Layer(ModelReader& reader, const std::string& name, std::span<const std::size_t> widths, std::size_t outputs,
             bool lut, std::span<const char* const> parts) {
  for (std::size_t i = 0; i < widths.size(); ++i) {
    inputs_.emplace_back(reader, name + parts[i], widths[i], outputs);
    outputs = inputs_.back().outputs();
  }
  requantisation_ = read_requantisation(reader, name, outputs);
  for (std::size_t i = 0; i < outputs; ++i) {
    double bound = 0;
    for (const Input& input : inputs_) bound += input.bound(i);
    check_bound(reader, name, bound, requantisation_.offset[i]);
  }
  if (lut) {
    const auto table = reader.take<std::uint16_t>(name + ".lut", {kLutSize});
    lut_.assign(table.begin(), table.end());
  }
}

Layer::Layer(ModelReader& reader, const std::string& name, std::size_t width, std::size_t outputs, bool lut)
    : Layer(reader, name, std::array{width}, outputs, lut, std::array{""}) {}

template <typename T, typename Finish>
Grid<T> Layer::run(const Compute& compute, std::span<const View<const std::uint16_t>> grids, std::optional<Pass> pass,
                   Finish finish) const {
  const std::size_t width = pass ? grids[0].width / 2 : grids[0].width;
  Grid<T> out(grids[0].height, width, outputs());
  std::vector<Input::Planes> planes;
  for (std::size_t i = 0; i < inputs_.size(); ++i) planes.push_back(inputs_[i].planes(grids[i]));
  const std::size_t n_positions = out.height() * width;
  const auto one = [&](std::size_t band) {
    const std::size_t first = band * kBand;
    const std::size_t n = std::min(kBand, n_positions - first);
    std::array<Position, kBand> positions;
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t row = (first + i) / width, column = (first + i) % width;
      positions[i] = {static_cast<std::uint32_t>(row),
                      static_cast<std::uint32_t>(pass ? column_of(*pass, row, column) : column)};
    }
    const std::unique_ptr<std::int64_t[]> t(new std::int64_t[n * outputs()]);
    for (std::size_t i = 0; i < n; ++i) std::copy_n(requantisation_.offset.data(), outputs(), t.get() + i * outputs());
    std::vector<std::int32_t> sums;
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      inputs_[i].add(compute.kernels, planes[i], std::span(positions).first(n), t.get(), sums);
    }
    T* to = out.values().data() + first * outputs();
    for (std::size_t i = 0; i < n * outputs(); ++i) to[i] = finish(t[i] >> requantisation_.shift);
  };
  // Some bands at a time, and between them the question whether to go on.
  const std::size_t n_bands = (n_positions + kBand - 1) / kBand;
  std::uint64_t products = 0;  // of one position
  for (const Input& input : inputs_) products += input.products();
  for (std::size_t start = 0; start < n_bands; start += kBandsAtOnce) {
    compute.ask(products * std::min(kBandsAtOnce * kBand, n_positions - start * kBand));
    compute.workers.run(std::min(kBandsAtOnce, n_bands - start), [&](std::size_t band) { one(start + band); });
  }
  return out;
}

Grid<std::uint16_t> Layer::levels(const Compute& compute, std::span<const View<const std::uint16_t>> grids,
                                  std::optional<Pass> pass) const {
  if (lut_.empty()) {
    return run<std::uint16_t>(compute, grids, pass, [](std::int64_t t) {
      return static_cast<std::uint16_t>(std::clamp<std::int64_t>(t, 0, kMaxLevel));
    });
  }
  constexpr std::int64_t kHalf = kLutSize / 2;
  return run<std::uint16_t>(compute, grids, pass, [lut = lut_.data()](std::int64_t t) {
    return lut[std::clamp<std::int64_t>(t, -kHalf, kHalf - 1) + kHalf];
  });
}

Grid<std::uint16_t> Layer::levels(const Compute& compute, View<const std::uint16_t> grid,
                                  std::optional<Pass> pass) const {
  return levels(compute, std::span(&grid, 1), pass);
}

Grid<std::int32_t> Layer::wide(const Compute& compute, View<const std::uint16_t> grid) const {
  return run<std::int32_t>(compute, std::span(&grid, 1), {}, [](std::int64_t t) {
    return static_cast<std::int32_t>(std::clamp<std::int64_t>(t, -kWideLimit, kWideLimit - 1));
  });
}

Rescale::Rescale(ModelReader& reader, const std::string& name, std::size_t channels, double value_limit) {
  const auto mult = reader.take<std::int32_t>(name + ".mult", {channels});
  mult_.assign(mult.begin(), mult.end());
  requantisation_ = read_requantisation(reader, name, channels);
  for (std::size_t i = 0; i < channels; ++i) {
    check_bound(reader, name, value_limit * std::abs(static_cast<double>(mult_[i])), requantisation_.offset[i]);
  }
}

std::uint16_t Rescale::operator()(std::int32_t value, std::size_t channel) const {
  const std::int64_t t =
      (std::int64_t{value} * mult_[channel] + requantisation_.offset[channel]) >> requantisation_.shift;
  return static_cast<std::uint16_t>(std::clamp<std::int64_t>(t, 0, kMaxLevel));
}

}  // namespace rdeic::entropy
