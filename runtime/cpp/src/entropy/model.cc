#include "entropy/model.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>

#include "sha256.h"

namespace rdeic::entropy {
namespace {

constexpr std::int32_t kVersion = 1;

// The canonical form is little-endian, as arrays are in memory here.
static_assert(std::endian::native == std::endian::little);

std::vector<std::size_t> read_widths(ModelReader& reader) {
  reader.number("version", kVersion, kVersion);
  std::vector<std::size_t> widths;
  for (const std::int32_t width : reader.take<std::int32_t>("slices", {kAnyLength})) {
    reader.check(width >= 1, "'slices' has a width under 1");
    widths.push_back(static_cast<std::size_t>(width));
  }
  return widths;
}

void update(Sha256& digest, std::uint64_t number) {
  const auto word = static_cast<std::uint32_t>(number);
  std::array<std::uint8_t, 4> bytes;
  std::memcpy(bytes.data(), &word, bytes.size());
  digest.update(bytes);
}

void update(Sha256& digest, std::string_view name) {
  update(digest, name.size());
  digest.update({reinterpret_cast<const std::uint8_t*>(name.data()), name.size()});
}

}  // namespace

ModelId model_id(const Arrays& arrays) {
  Sha256 digest;
  for (const auto& [name, array] : arrays.all()) {
    update(digest, name);
    update(digest, std::string_view(dtype_name(array.dtype)));
    update(digest, array.shape.size());
    for (const std::uint64_t side : array.shape) update(digest, side);
    digest.update({reinterpret_cast<const std::uint8_t*>(array.data.data()), array.data.size()});
  }
  const Sha256Digest all = digest.finish();
  ModelId id;
  std::copy_n(all.begin(), id.size(), id.begin());
  return id;
}

Model::Model(const Arrays& arrays, ModelReader reader)
    : id_(model_id(arrays)), widths_(read_widths(reader)), tables_(reader), hyper_(reader, tables_.prior().size()) {
  std::size_t start = 0;
  for (std::size_t i = 0; i < widths_.size(); start += widths_[i++]) {
    slices_.emplace_back(reader, i, start, widths_[i], hyper_.width());
  }
  reader.close();
}

}  // namespace rdeic::entropy
