#include "entropy/nets.h"

#include <algorithm>
#include <array>

#include "entropy/coder.h"

namespace rdeic::entropy {
namespace {

constexpr int kSlopeBits = 16;
// Of y_hat in units of 1/256: the largest symbol, and the largest mean beside it.
constexpr double kValueLimit = double{kMaxSymbol} * 256 + kWideLimit;

/// Returns [2R, 2C, n] of [R, C, 4n]: channel 4 m + 2 a + d goes to row offset a, column offset d of channel m.
template <typename T>
Grid<T> pixel_shuffle(const Grid<T>& x) {
  Grid<T> out(2 * x.height(), 2 * x.width(), x.channels() / 4);
  const T* from = x.values().data();
  for (std::size_t row = 0; row < x.height(); ++row) {
    for (std::size_t column = 0; column < x.width(); ++column, from += x.channels()) {
      for (std::size_t a = 0; a < 2; ++a) {
        for (std::size_t d = 0; d < 2; ++d) {
          T* to = out.view().at(2 * row + a, 2 * column + d);
          for (std::size_t m = 0; m < out.channels(); ++m) to[m] = from[4 * m + 2 * a + d];
        }
      }
    }
  }
  return out;
}

std::vector<Layer> read_channel(ModelReader& reader, const std::string& name, std::size_t channels) {
  std::vector<Layer> layers;
  for (int i = 0; i < 3; ++i) {
    layers.emplace_back(reader, name + "." + std::to_string(i), channels, kAnyLength, i < 2);
    channels = layers.back().outputs();
  }
  return layers;
}

std::vector<Layer> read_parameters(ModelReader& reader, const std::string& name, std::size_t width,
                                   std::span<const std::size_t> widths, std::span<const char* const> parts) {
  std::vector<Layer> layers;
  layers.emplace_back(reader, name + ".0", widths, kAnyLength, true, parts);
  layers.emplace_back(reader, name + ".1", layers[0].outputs(), kAnyLength, true);
  layers.emplace_back(reader, name + ".2", layers[1].outputs(), 2 * width, false);
  return layers;
}

std::vector<std::uint16_t> read_zero(ModelReader& reader, const std::string& name, std::size_t width) {
  const auto zero = reader.take<std::uint16_t>(name, {width});
  return {zero.begin(), zero.end()};
}

}  // namespace

HyperBlock::HyperBlock(ModelReader& reader, const std::string& name, std::size_t channels, bool doubles)
    : doubles_(doubles),
      first_(reader, name + ".first", channels, kAnyLength, true),
      second_(reader, name + ".second", doubles ? std::max<std::size_t>(first_.outputs() / 4, 1) : first_.outputs(),
              kAnyLength, false),
      skip_(reader, name + ".skip", channels, doubles ? 4 * second_.outputs() : second_.outputs(), false),
      slope_(reader.number(name + ".slope", 0, 1 << kSlopeBits)),
      out_(reader, name + ".out", second_.outputs(), 2.0 * kWideLimit) {
  reader.check(!doubles || first_.outputs() % 4 == 0, "outputs of '" + name + ".first' are no multiple of 4");
}

Grid<std::uint16_t> HyperBlock::operator()(const Compute& compute, const Grid<std::uint16_t>& x) const {
  Grid<std::uint16_t> p = first_.levels(compute, x.view());
  Grid<std::int32_t> q = skip_.wide(compute, x.view());
  if (doubles_) {
    p = pixel_shuffle(p);
    q = pixel_shuffle(q);
  }
  const Grid<std::int32_t> w = second_.wide(compute, p.view());
  Grid<std::uint16_t> out(w.height(), w.width(), w.channels());
  constexpr std::size_t kAskEvery = 1 << 20, kProductsOfAValue = 64;
  for (std::size_t i = 0, channel = 0; i < out.values().size(); ++i) {
    if (i % kAskEvery == 0) compute.ask(kAskEvery * kProductsOfAValue);
    std::int64_t value = w.values()[i];
    if (value < 0) value = (value * slope_ + (1 << (kSlopeBits - 1))) >> kSlopeBits;
    out.values()[i] = out_(static_cast<std::int32_t>(value) + q.values()[i], channel);
    if (++channel == out.channels()) channel = 0;
  }
  return out;
}

HyperNet::HyperNet(ModelReader& reader, std::size_t codes) {
  const auto codebook = reader.take<std::uint16_t>("codebook", {codes, kAnyLength});
  codebook_.assign(codebook.begin(), codebook.end());
  code_width_ = codebook_.size() / codes;
  const auto doubles = reader.take<std::uint8_t>("hyper.doubles", {kAnyLength});
  reader.check(
      std::count(doubles.begin(), doubles.end(), 1) == 2 && *std::max_element(doubles.begin(), doubles.end()) == 1,
      "'hyper.doubles' has not two ones and zeros");
  std::size_t channels = code_width_;
  for (std::size_t i = 0; i < doubles.size(); ++i) {
    blocks_.emplace_back(reader, "hyper." + std::to_string(i), channels, doubles[i] != 0);
    channels = blocks_.back().outputs();
  }
}

Grid<std::uint16_t> HyperNet::operator()(const Compute& compute, std::span<const std::int32_t> indices, std::size_t hz,
                                         std::size_t wz) const {
  Grid<std::uint16_t> x(hz, wz, code_width_);
  std::uint16_t* to = x.values().data();
  for (const std::int32_t index : indices) {
    to = std::copy_n(codebook_.data() + static_cast<std::size_t>(index) * code_width_, code_width_, to);
  }
  for (const HyperBlock& block : blocks_) x = block(compute, x);
  return x;
}

SliceNets::SliceNets(ModelReader& reader, std::size_t index, std::size_t start, std::size_t width,
                     std::size_t hyper_width)
    : start_(start),
      width_(width),
      quantise_(reader, "y." + std::to_string(index), width, kValueLimit),
      zero_(read_zero(reader, "y." + std::to_string(index) + ".zero", width)),
      local_(reader, "local." + std::to_string(index), width, kAnyLength, false) {
  const std::string i = std::to_string(index);
  std::vector<std::size_t> widths = {hyper_width};
  std::vector<const char*> parts = {".hyper"};
  if (index > 0) {
    channel_ = read_channel(reader, "channel." + i, start);
    widths.push_back(channel_.back().outputs());
    parts.push_back(".channel");
  }
  anchor_ = read_parameters(reader, "anchor." + i, width, widths, parts);
  widths.push_back(local_.outputs());
  parts.push_back(".local");
  nonanchor_ = read_parameters(reader, "nonanchor." + i, width, widths, parts);
}

Grid<std::uint16_t> SliceNets::channel_context(const Compute& compute, View<const std::uint16_t> y) const {
  Grid<std::uint16_t> x = channel_[0].levels(compute, y.channels_from(0, start_));
  for (std::size_t i = 1; i < channel_.size(); ++i) x = channel_[i].levels(compute, x.view());
  return x;
}

Grid<std::uint16_t> SliceNets::local_context(const Compute& compute, View<const std::uint16_t> y) const {
  return local_.levels(compute, y.channels_from(start_, width_), Pass::kNonAnchors);
}

Grid<std::int32_t> SliceNets::parameters(const Compute& compute, std::span<const View<const std::uint16_t>> contexts,
                                         Pass pass) const {
  const std::vector<Layer>& layers = pass == Pass::kAnchors ? anchor_ : nonanchor_;
  const Grid<std::uint16_t> first = layers[0].levels(compute, contexts);
  const Grid<std::uint16_t> middle = layers[1].levels(compute, first.view());
  return layers[2].wide(compute, middle.view());
}

}  // namespace rdeic::entropy
