// Any bytes are arrays or an Error; any arrays are a step table or an Error, and an entropy model or an Error; with any
// model, sections decode or end in an Error.
//
// An input is an .npz file, or, as the checksums in one stop nearly all changes, if it begins with "M": a byte that is
// the number of changes to the golden entropy model, the changes, and the sections (`change` and `decode` tell more).

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "arrays.h"
#include "entropy/hyperprior.h"
#include "errors_only.h"
#include "listed_file.h"
#include "rows.h"

namespace {

using rdeic::Array;
using rdeic::Arrays;
using rdeic::Result;
using rdeic::fuzz::returns;

/// Takes an input apart, from its beginning; at its end there are no bytes, which is 0 as a number.
class Input {
 public:
  explicit Input(std::span<const std::uint8_t> data) : left_(data) {}

  std::span<const std::uint8_t> bytes(std::size_t most) {
    const auto taken = left_.first(std::min(most, left_.size()));
    left_ = left_.subspan(taken.size());
    return taken;
  }

  std::size_t number(std::size_t n_bytes) {
    std::size_t value = 0;
    for (const std::uint8_t byte : bytes(n_bytes)) value = value << 8 | byte;
    return value;
  }

 private:
  std::span<const std::uint8_t> left_;
};

const Arrays& golden() {
  static const Arrays read =
      Arrays::read(rdeic::testing::listed_file(RDEIC_SOURCE_DIR "/tests/golden/v1/bundle/entropy_r0.npz"));
  return read;
}

/// Changes an array as the input says: its number among the golden ones, what to do, and what that needs.
void change(std::map<std::string, Array>& arrays, Input& input) {
  constexpr std::size_t kMostElements = 1 << 16;
  const auto number = static_cast<std::ptrdiff_t>(input.number(2) % golden().all().size());
  const auto found = arrays.find(std::next(golden().all().begin(), number)->first);
  if (found == arrays.end()) return;
  Array& array = found->second;
  switch (input.number(1) % 4) {
    case 0:
      arrays.erase(found);
      break;
    case 1: {
      auto node = arrays.extract(found);
      const auto name = input.bytes(input.number(1));
      node.key().assign(name.begin(), name.end());
      arrays.insert(std::move(node));
      break;
    }
    case 2: {
      const std::size_t offset = std::min(input.number(3), array.data.size());
      const auto elements = std::as_bytes(input.bytes(std::min(input.number(1), array.data.size() - offset)));
      std::ranges::copy(elements, array.data.begin() + static_cast<std::ptrdiff_t>(offset));
      break;
    }
    default: {
      const auto dtype = static_cast<rdeic::DType>(input.number(1) % 6);
      std::vector<std::uint64_t> shape(input.number(1) % 5);
      std::size_t count = 1;
      for (std::uint64_t& side : shape) {
        side = input.number(2);
        count = std::min(count * side, kMostElements + 1);
      }
      if (count > kMostElements) break;
      array.dtype = dtype;
      array.shape = shape;
      array.data.resize(count * rdeic::dtype_bytes(dtype));
    }
  }
}

/// Decodes what is left of the input: options, a byte that is the length of the z section, that, and the y section.
void decode(const rdeic::entropy::Model& model, Input& input) {
  static rdeic::entropy::Workers alone(1);
  const auto all_kernels = rdeic::entropy::available_kernels();
  const std::size_t options = input.number(1);
  rdeic::File file;
  file.header.z_is_plain = (options & 1) != 0;
  file.missing_y_bytes = (options >> 1) & 3;
  file.z = input.bytes(input.number(1));
  file.y = input.bytes(SIZE_MAX);
  const rdeic::entropy::Compute compute{all_kernels[(options >> 3) % all_kernels.size()], alone};
  const auto channels = dynamic_cast<const rdeic::entropy::Hyperprior&>(model).y_channels();
  const rdeic::Shape shape = {1, static_cast<std::int64_t>(channels), 4, 4};
  returns({Result::kBitstream}, [&] { (void)model.decode(compute, file, {{"y_hat", shape}}, {}); });
}

void use_as_model(const Arrays& arrays, Input& input) {
  returns({Result::kBundleCorrupt}, [&] { decode(*rdeic::entropy::load(arrays), input); });
}

/// Reads the bytes as a file's content.
void use_as_file(std::span<const std::uint8_t> data) {
  returns({Result::kBundleCorrupt}, [&] {
    const Arrays arrays = Arrays::read(data, "arrays.npz");
    for (const auto& [name, array] : arrays.all()) {
      std::uint64_t count = 1;
      for (const std::uint64_t side : array.shape) count *= side;
      if (count != array.count()) __builtin_trap();
    }
    Input no_sections({});
    use_as_model(arrays, no_sections);
    for (const std::int64_t width : {2, 3}) {
      rdeic::GraphSpec spec;
      spec.inputs = {{rdeic::kStepInput, rdeic::DType::kFloat32, {{.factor = 1}, {.factor = width}}}};
      rdeic::rows_of(arrays, width == 2 ? "control" : "unet_step", 2, spec, rdeic::kStepInput);
    }
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  Input input({data, bytes});
  if (input.number(1) != 'M') {
    use_as_file({data, bytes});
    return 0;
  }
  std::map<std::string, Array> arrays = golden().all();
  for (std::size_t left = input.number(1); left > 0; --left) change(arrays, input);
  use_as_model(Arrays(std::move(arrays), "entropy model"), input);
  return 0;
}
