#include "entropy/model.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string_view>

#include "entropy/hyperprior.h"
#include "entropy/static_prior.h"
#include "sha256.h"
#include "status.h"

namespace rdeic::entropy {
namespace {

// The canonical form is little-endian, as arrays are in memory here.
static_assert(std::endian::native == std::endian::little);

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

std::span<const Kind> kinds() {
  static constexpr Kind kKinds[] = {{Hyperprior::kVersion, Hyperprior::read},
                                    {StaticPrior::kVersion, StaticPrior::read},
                                    {StaticPrior::kContextVersion, StaticPrior::read}};
  return kKinds;
}

std::shared_ptr<const Model> load(const Arrays& arrays, std::span<const Kind> known) {
  const std::int32_t version = arrays.get<std::int32_t>("version", {1})[0];
  const auto kind = std::find_if(known.begin(), known.end(), [&](const Kind& one) { return one.version == version; });
  if (kind != known.end()) return kind->read(arrays);
  std::string versions;
  for (const Kind& one : known) versions += (versions.empty() ? "" : " or ") + std::to_string(one.version);
  fail(Result::kBundleCorrupt, "%s: it has version %d, not %s. Upgrade librdeic", arrays.what().c_str(), version,
       versions.c_str());
}

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

}  // namespace rdeic::entropy
