#include "entropy/static_prior.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "status.h"

namespace rdeic::entropy {
namespace {

constexpr const char* kTensor = "vq_indices";
constexpr std::int32_t kMaxIndexPx = 4096;  // as of size_multiple_px, of which it is a divisor

}  // namespace

StaticPrior::StaticPrior(const Arrays& arrays, ModelReader reader)
    : id_(model_id(arrays)), index_px_(reader.number("index_px", 1, kMaxIndexPx)), indices_(reader) {
  if (reader.number("version", kVersion, kContextVersion) == kContextVersion)
    context_.emplace(reader, indices_.n_codes());
  reader.close();
}

std::shared_ptr<const Model> StaticPrior::read(const Arrays& arrays) {
  return std::shared_ptr<const Model>(new StaticPrior(arrays, ModelReader(arrays)));
}

std::map<std::string, std::uint32_t> StaticPrior::position_px() const {
  return {{kTensor, static_cast<std::uint32_t>(index_px_)}};
}

Decoded StaticPrior::decode(const Compute& compute, const File& file, const std::map<std::string, Shape>& shapes,
                            const BeforeSlice& before_slice) const {
  const Shape& shape = shapes.at(kTensor);
  if (shape.size() != 3 || shape[0] != 1) {
    fail(Result::kBundleCorrupt,
         "the entropy model makes a grid of indices, [1, rows, columns]; the graph that reads them takes %s",
         shape_text(shape).c_str());
  }
  if (const std::uint64_t n_bytes = file.y.size() + file.missing_y_bytes; n_bytes > 0) {
    fail(Result::kBitstream, "y section: it has %llu bytes; files of this model have none",
         static_cast<unsigned long long>(n_bytes));
  }
  if (before_slice) before_slice(0);
  Tensor<std::int64_t> indices(shape);
  std::vector<std::int32_t> found;
  if (context_ && !file.header.z_is_plain) {
    const auto height = static_cast<std::size_t>(shape[1]), width = static_cast<std::size_t>(shape[2]);
    found = context_->decode(compute, indices_.prior(), file.z, height, width);
  } else {
    found = indices_.decode(file, indices.size());
  }
  std::copy(found.begin(), found.end(), indices.data());
  Decoded decoded;
  decoded.complete_slices = decoded.n_slices = 1;
  decoded.tensors.emplace(kTensor, to_value(std::move(indices)));
  return decoded;
}

}  // namespace rdeic::entropy
