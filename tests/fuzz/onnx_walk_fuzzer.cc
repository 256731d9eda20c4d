// Any bytes are an ONNX file whose weights are described whole, or an Error.

#include "onnx_walk.h"

#include <limits>

#include "errors_only.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  rdeic::fuzz::returns({rdeic::Result::kBundleCorrupt}, [&] {
    for (const rdeic::ExternalWeight& weight : rdeic::external_weights({data, bytes}, "graph")) {
      std::uint64_t elements = 1;
      for (const std::int64_t side : weight.shape) elements *= static_cast<std::uint64_t>(side);
      const bool is_whole = elements > 0 && weight.size_bytes % elements == 0 && weight.size_bytes / elements <= 8;
      const bool is_bounded = weight.offset <= std::numeric_limits<std::int64_t>::max() - weight.size_bytes;
      if (!is_whole || !is_bounded || weight.shape.size() > 8) __builtin_trap();
    }
  });
  return 0;
}
