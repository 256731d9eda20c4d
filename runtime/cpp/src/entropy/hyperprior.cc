#include "entropy/hyperprior.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "status.h"

namespace rdeic::entropy {
namespace {

constexpr int kGridBits = 8;  // y_hat and means are multiples of 2^-8
constexpr const char* kTensor = "y_hat";

std::vector<std::size_t> read_widths(ModelReader& reader) {
  reader.number("version", Hyperprior::kVersion, Hyperprior::kVersion);
  std::vector<std::size_t> widths;
  for (const std::int32_t width : reader.take<std::int32_t>("slices", {kAnyLength})) {
    reader.check(width >= 1, "'slices' has a width under 1");
    widths.push_back(static_cast<std::size_t>(width));
  }
  return widths;
}

/// Reads groups of the y section, whole or cut.
class GroupReader {
 public:
  explicit GroupReader(const File& file) {
    if (file.missing_y_bytes > 0) {
      cut_.emplace(file.y, file.missing_y_bytes, "y section");
    } else {
      whole_.emplace(file.y, "y section");
    }
  }

  /// Returns false from the first group on that is not certain.
  bool get_group(const GaussianTable& table, std::span<std::int32_t> symbols) {
    if (cut_) return cut_->get_group(table, symbols);
    whole_->get_group(table, symbols);
    return true;
  }

  bool at_end() const { return cut_ && cut_->at_end(); }

  void finish() const {
    if (whole_) whole_->finish();
  }

 private:
  std::optional<SymbolDecoder> whole_;
  std::optional<CutSymbolDecoder> cut_;
};

/// Returns the symbols of a pass by number.
std::vector<std::int32_t> decode_pass(const Compute& compute, const Tables& tables, GroupReader& reader,
                                      const Grid<std::int32_t>& parameters) {
  const std::size_t width = parameters.channels() / 2;
  const std::size_t n = parameters.height() * parameters.width() * width;
  if (n > std::numeric_limits<std::uint32_t>::max()) {
    fail(Result::kLimitExceeded, "a pass of %zu symbols; their numbers have 32 bits", n);
  }
  std::vector<std::uint8_t> scale_indices(n);
  for (std::size_t i = 0; i < n; ++i) {
    scale_indices[i] = tables.scale_index(parameters.values()[i / width * 2 * width + i % width]);
  }
  std::vector<std::int32_t> symbols(n), group_symbols;
  const Groups groups(scale_indices, tables.skip_below());
  for (const Group& group : groups.all()) {
    compute.ask(group.numbers.size() * kProductsOfASymbol);
    group_symbols.resize(group.numbers.size());
    if (!reader.get_group(tables.gaussian(group.scale_index), group_symbols)) break;
    for (std::size_t i = 0; i < group_symbols.size(); ++i) symbols[group.numbers[i]] = group_symbols[i];
  }
  return symbols;
}

/// y_hat, in units of 2^-8, and the tensor that the networks see of it.
struct CodedGrid {
  Tensor<float> y_hat;
  Grid<std::uint16_t> levels;

  CodedGrid(std::size_t channels, std::size_t height, std::size_t width)
      : y_hat({1, static_cast<std::int64_t>(channels), static_cast<std::int64_t>(height),
               static_cast<std::int64_t>(width)}),
        levels(height, width, channels) {}

  /// Sets the tensor of a slice to what 0 is in it.
  void clear(const SliceNets& nets) {
    for (std::size_t row = 0; row < levels.height(); ++row) {
      for (std::size_t column = 0; column < levels.width(); ++column) {
        std::copy(nets.zero().begin(), nets.zero().end(), levels.view().at(row, column) + nets.start());
      }
    }
  }

  /// Puts symbol plus mean at the positions of a pass.
  void put(const SliceNets& nets, Pass pass, const Grid<std::int32_t>& parameters,
           std::span<const std::int32_t> symbols) {
    constexpr float kUnit = 1.0F / (1 << kGridBits);
    const std::size_t plane = levels.height() * levels.width();
    std::size_t number = 0;
    for (std::size_t row = 0; row < parameters.height(); ++row) {
      for (std::size_t half = 0; half < parameters.width(); ++half) {
        const std::size_t column = column_of(pass, row, half);
        const std::int32_t* means = parameters.view().at(row, half) + nets.width();
        std::uint16_t* to = levels.view().at(row, column) + nets.start();
        float* value = y_hat.data() + nets.start() * plane + row * levels.width() + column;
        for (std::size_t channel = 0; channel < nets.width(); ++channel, value += plane) {
          const std::int32_t on_grid = means[channel] + symbols[number++] * (1 << kGridBits);
          *value = static_cast<float>(on_grid) * kUnit;
          to[channel] = nets.quantise()(on_grid, channel);
        }
      }
    }
  }
};

}  // namespace

Hyperprior::Hyperprior(const Arrays& arrays, ModelReader reader)
    : id_(model_id(arrays)),
      widths_(read_widths(reader)),
      tables_(reader),
      hyper_(reader, tables_.indices().n_codes()) {
  std::size_t start = 0;
  for (std::size_t i = 0; i < widths_.size(); start += widths_[i++]) {
    slices_.emplace_back(reader, i, start, widths_[i], hyper_.width());
  }
  reader.close();
}

std::shared_ptr<const Model> Hyperprior::read(const Arrays& arrays) {
  return std::shared_ptr<const Model>(new Hyperprior(arrays, ModelReader(arrays)));
}

Decoded Hyperprior::decode(const Compute& compute, const File& file, const std::map<std::string, Shape>& shapes,
                           const BeforeSlice& before_slice) const {
  constexpr auto kScale = static_cast<std::int64_t>(HyperNet::kScale);
  const Shape& shape = shapes.at(kTensor);
  if (shape.size() != 4 || shape[1] != static_cast<std::int64_t>(y_channels()) || shape[2] % kScale != 0 ||
      shape[3] % kScale != 0) {
    fail(Result::kBundleCorrupt,
         "the entropy model has %zu channels, on a grid that is %zu times that of its indices; the graph that reads %s "
         "takes %s",
         y_channels(), HyperNet::kScale, kTensor, shape_text(shape).c_str());
  }
  const auto hz = static_cast<std::size_t>(shape[2] / kScale), wz = static_cast<std::size_t>(shape[3] / kScale);
  const std::vector<std::int32_t> indices = tables_.indices().decode(file, hz * wz);
  GroupReader reader(file);
  const Grid<std::uint16_t> hyper = hyper_(compute, indices, hz, wz);
  CodedGrid values(y_channels(), hyper.height(), hyper.width());
  Decoded decoded;
  decoded.n_slices = static_cast<std::uint32_t>(slices_.size());
  for (std::size_t slice = 0; slice < slices_.size(); ++slice) {
    if (before_slice) before_slice(slice);
    const SliceNets& nets = slices_[slice];
    values.clear(nets);
    std::optional<Grid<std::uint16_t>> channel;
    if (nets.has_channel_context()) channel = nets.channel_context(compute, values.levels.view());
    for (const Pass pass : {Pass::kAnchors, Pass::kNonAnchors}) {
      std::vector<Grid<std::uint16_t>> contexts;
      contexts.push_back(squeeze(hyper.view(), pass));
      if (channel) contexts.push_back(squeeze(std::as_const(*channel).view(), pass));
      if (pass == Pass::kNonAnchors) contexts.push_back(nets.local_context(compute, values.levels.view()));
      std::vector<View<const std::uint16_t>> views;
      for (const auto& context : contexts) views.push_back(context.view());
      const Grid<std::int32_t> parameters = nets.parameters(compute, views, pass);
      values.put(nets, pass, parameters, decode_pass(compute, tables_, reader, parameters));
    }
    if (!reader.at_end()) ++decoded.complete_slices;
  }
  reader.finish();
  decoded.tensors.emplace(kTensor, to_value(std::move(values.y_hat)));
  return decoded;
}

}  // namespace rdeic::entropy
