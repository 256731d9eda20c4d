// Any bytes are a file or an Error.

#include "container.h"
#include "status.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  rdeic::Limits limits;
  limits.max_metadata_bytes = 1 << 16;
  for (const bool allow_partial : {false, true}) {
    try {
      const rdeic::File file = rdeic::parse({data, bytes}, limits, allow_partial);
      if (file.z.size() + file.y.size() > bytes) __builtin_trap();
    } catch (const rdeic::Error&) {
    }
  }
  return 0;
}
