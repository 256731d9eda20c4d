#include "entropy/index_context.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <string>

#include "status.h"

namespace rdeic::entropy {
namespace {

constexpr std::size_t kMaxClasses = 256;
constexpr unsigned kMantissaBits = 3;  // of a weight: (8 + the low 3 bits of a byte) << its high 5 bits
// Positions that networks see at a time, so that memory does not grow with their width times the grid.
constexpr std::size_t kBandPositions = std::size_t{1} << 14;

/// Row and column of a pass's positions in a square of two by two.
struct Corner {
  std::size_t row, column;
};
constexpr std::array<Corner, 4> kPasses = {{{0, 0}, {1, 1}, {0, 1}, {1, 0}}};

/// Returns how many of a side's positions belong to a pass that begins at `first`, 0 or 1.
constexpr std::size_t every_other(std::size_t side, std::size_t first) { return (side + 1 - first) / 2; }

}  // namespace

std::vector<std::int32_t> masses_of(std::span<const std::uint8_t> weights) {
  constexpr std::uint8_t kOne = 1U << kMantissaBits;
  std::vector<std::int64_t> wide;
  for (const std::uint8_t weight : weights) {
    wide.push_back(std::int64_t{kOne + weight % kOne} << (weight >> kMantissaBits));
  }
  const std::int64_t shared = std::int64_t{kTotalMass} - static_cast<std::int64_t>(wide.size());
  const std::int64_t sum = std::accumulate(wide.begin(), wide.end(), std::int64_t{0});
  std::vector<std::int32_t> masses;
  for (const std::int64_t weight : wide) masses.push_back(static_cast<std::int32_t>(1 + weight * shared / sum));
  const auto left_over = static_cast<std::int32_t>(kTotalMass) - std::accumulate(masses.begin(), masses.end(), 0);
  masses[static_cast<std::size_t>(std::max_element(wide.begin(), wide.end()) - wide.begin())] += left_over;
  return masses;
}

IndexContext::IndexContext(ModelReader& reader, std::size_t codes) {
  const auto codebook = reader.take<std::uint16_t>("codebook", {codes, kAnyLength});
  codebook_.assign(codebook.begin(), codebook.end());
  code_width_ = codebook_.size() / codes;
  const auto weights = reader.take<std::uint8_t>("class_weights", {kAnyLength, codes});
  const std::size_t n_classes = weights.size() / codes;
  reader.check(n_classes <= kMaxClasses,
               text("'class_weights' has %zu rows, should have 1 to %zu", n_classes, kMaxClasses));
  for (std::size_t pass = 1; pass < kPasses.size(); ++pass) {
    nets_.push_back(read_net(reader, pass, code_width_, n_classes));
  }
  for (std::size_t i = 0; i < n_classes; ++i) tables_.emplace_back(masses_of(weights.subspan(i * codes, codes)));
}

IndexContext::Net IndexContext::read_net(ModelReader& reader, std::size_t pass, std::size_t code_width,
                                         std::size_t n_classes) {
  const std::string name = "context." + std::to_string(pass);
  constexpr std::array kParts = {".0", ".1", ".2"};
  const std::vector<std::size_t> widths(pass, code_width);
  Layer first(reader, name + ".0", widths, kAnyLength, true, std::span(kParts).first(pass));
  std::size_t margin = 0;
  for (const Input& input : first.inputs()) {
    reader.check(input.kernel() > 1, "'" + name + ".0' has a kernel of 1x1");
    margin = std::max(margin, input.kernel() / 2);
  }
  Layer middle(reader, name + ".1", first.outputs(), kAnyLength, true);
  Layer last(reader, name + ".2", middle.outputs(), n_classes, false);
  reader.check(middle.inputs()[0].kernel() == 1, "'" + name + ".1' has a kernel other than 1x1");
  reader.check(last.inputs()[0].kernel() == 1, "'" + name + ".2' has a kernel other than 1x1");
  return {std::move(first), std::move(middle), std::move(last), margin};
}

std::vector<std::int32_t> IndexContext::decode(const Compute& compute, const Distribution& prior,
                                               std::span<const std::uint8_t> section, std::size_t height,
                                               std::size_t width) const {
  std::vector<std::int32_t> grid(height * width), symbols;
  SymbolDecoder decoder(section, "z section");
  for (std::size_t pass = 0; pass < kPasses.size(); ++pass) {
    const auto [top, left] = kPasses[pass];
    const std::size_t columns = every_other(width, left);
    const std::size_t n = every_other(height, top) * columns;
    if (n > std::numeric_limits<std::uint32_t>::max()) {
      fail(Result::kLimitExceeded, "a pass of %zu indices; their numbers have 32 bits", n);
    }
    if (n == 0) continue;
    const Groups groups(pass == 0 ? std::vector<std::uint8_t>(n) : classes(compute, pass, grid, height, width), 0);
    for (const Group& group : groups.all()) {
      compute.ask(group.numbers.size() * kProductsOfASymbol);
      symbols.resize(group.numbers.size());
      decoder.get(pass == 0 ? prior : tables_[group.scale_index], symbols);
      for (std::size_t i = 0; i < symbols.size(); ++i) {
        const std::size_t row = group.numbers[i] / columns, column = group.numbers[i] % columns;
        grid[(2 * row + top) * width + 2 * column + left] = symbols[i];
      }
    }
  }
  decoder.finish();
  return grid;
}

std::vector<std::uint8_t> IndexContext::classes(const Compute& compute, std::size_t pass,
                                                std::span<const std::int32_t> grid, std::size_t height,
                                                std::size_t width) const {
  const Net& net = nets_[pass - 1];
  const std::size_t rows = every_other(height, kPasses[pass].row), columns = every_other(width, kPasses[pass].column);
  const std::size_t half_height = every_other(height, 0), half_width = every_other(width, 0);
  const std::size_t band = std::max<std::size_t>(1, kBandPositions / half_width);
  std::vector<std::uint8_t> found;
  found.reserve(rows * columns);
  for (std::size_t top = 0; top < rows; top += band) {
    const std::size_t bottom = std::min(rows, top + band);
    const std::size_t start = top - std::min(top, net.margin), stop = std::min(half_height, bottom + net.margin);
    const std::size_t last_row = std::min(height, 2 * stop);
    const auto squares = grid.subspan(2 * start * width, (last_row - 2 * start) * width);
    std::vector<Grid<std::uint16_t>> planes;
    std::vector<View<const std::uint16_t>> views;
    for (std::size_t earlier = 0; earlier < pass; ++earlier) {
      planes.push_back(plane(earlier, net.first.inputs()[earlier].zero(), squares, last_row - 2 * start, width));
    }
    for (const auto& one : planes) views.push_back(one.view());
    const Grid<std::uint16_t> hidden = net.first.levels(compute, views);
    View<const std::uint16_t> own = hidden.view();
    own.data = own.at(top - start, 0);
    own.height = bottom - top;
    const Grid<std::int32_t> scores = net.last.wide(compute, net.middle.levels(compute, own).view());
    for (std::size_t row = 0; row < own.height; ++row) {
      for (std::size_t column = 0; column < columns; ++column) {
        const std::span at(scores.view().at(row, column), scores.channels());
        found.push_back(static_cast<std::uint8_t>(std::max_element(at.begin(), at.end()) - at.begin()));
      }
    }
  }
  return found;
}

/// Returns what is seen of a pass in a grid of indices: `zero` where it has no position.
Grid<std::uint16_t> IndexContext::plane(std::size_t pass, std::span<const std::uint16_t> zero,
                                        std::span<const std::int32_t> grid, std::size_t height,
                                        std::size_t width) const {
  const auto [top, left] = kPasses[pass];
  Grid<std::uint16_t> seen(every_other(height, 0), every_other(width, 0), code_width_);
  std::uint16_t* to = seen.values().data();
  for (std::size_t row = top; row < top + 2 * seen.height(); row += 2) {
    for (std::size_t column = left; column < left + 2 * seen.width(); column += 2) {
      const bool inside = row < height && column < width;
      const std::uint16_t* vector =
          inside ? codebook_.data() + static_cast<std::size_t>(grid[row * width + column]) * code_width_ : zero.data();
      to = std::copy_n(vector, code_width_, to);
    }
  }
  return seen;
}

}  // namespace rdeic::entropy
