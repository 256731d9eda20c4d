// The integer networks of entropy model 1 (docs/format.md, "Integer layers" and "Networks") on a GPU.
//
// A tensor is two planes of bytes, the high and the low byte of each value: [row][column][channel], channels padded to
// a multiple of four, so that four of them are one word. Weights are packed alike, [tap][word][output], with zeros
// where channels are padding; what the padding of a tensor holds then does not matter.
//
// Nothing here is a float and nothing overflows. A layer that loading has accepted sums k * k * channels < 2^17
// products of a byte and a weight of magnitude <= 64, which is less than 255 * 64 * 2^17 < 2^31. What multiplies these
// sums is computed in 64 bits, and loading has checked that all of it together stays under 2^62.
//
// NVRTC compiles this file for the GPU. Tests compile it as C++ for the CPU, with __global__, __device__, blockIdx,
// blockDim and threadIdx from tests/runtime/backends/entropy_kernels_on_cpu.cc.

typedef unsigned char u8;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;

// Structures as entropy_layers.py builds them.

struct Planes {
  u8* high;
  u8* low;
  i64 stride;  // bytes from one position to the next
};

// One input of a layer.
struct Input {
  const u32* high;         // the planes, from the first channel that the layer reads
  const u32* low;          // not read if the input is coarse
  const u32* weights;      // u, [taps][words][outputs]
  const u32* weights_low;  // v, alike; null if the input is coarse
  const i32* mult;         // [outputs]
  const u32* zero;         // outside of the grid: [words] high, then [words] low; null if kernel is 1
  i64 stride;              // words from one position to the next
  i32 words;               // of each position that the layer reads
  i32 kernel;
};

enum Positions { kAll, kNonAnchors, kAnchors };
enum End { kTable, kLevels, kWide, kBlock, kParameters };

struct Layer {
  Input inputs[3];
  const i64* offset;  // [outputs]
  i32 n_inputs;
  i32 outputs;
  i32 shift;
  i32 height;  // of the inputs
  i32 width;
  i32 positions;   // which of them: a Positions
  i32 end;         // an End
  i32 in_place;    // kTable, kLevels: whether the output lies on the inputs' grid, and not side by side
  i32 shuffles;    // kTable and kWide: whether the grid doubles, and outputs become a quarter
  Planes out;      // kTable, kLevels, kBlock
  const u16* lut;  // kTable: [4096]
  i32* wide;       // kWide: what is made; kBlock: what is added; kParameters: the means
  // kBlock: (leaky(t) * out_mult + out_offset) >> out_shift
  const i32* out_mult;
  const i64* out_offset;
  i32 out_shift;
  i32 slope;
  // kParameters
  const i32* thresholds;  // [63]
  u8* scale_index;        // [positions][outputs / 2]
  i32 skip_below;
};

// Code vectors to a tensor.
struct Lookup {
  const u32* codes_high;  // [K][words]
  const u32* codes_low;
  const i32* indices;  // [positions]
  u32* high;           // [positions][words]
  u32* low;
  i64 positions;
  i64 words;
};

// Values of a pass to the tensor of y.
struct Store {
  const i32* values;  // [height][width / 2][channels]
  const i32* mult;    // [channels]
  const i64* offset;  // [channels]
  const u16* zero;    // [channels]
  Planes out;         // from the slice's first channel
  i32 shift;
  i32 height;
  i32 width;
  i32 channels;
  i32 anchors;  // 1: non-anchors become zero; 0: anchors stay as they are
  i32 unused;
};

// Return sum + the products of four unsigned bytes and four signed weights.
__device__ inline i32 dot4(u32 bytes, u32 weights, i32 sum) {
#ifdef __CUDA_ARCH__
  i32 result;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(bytes), "r"(weights), "r"(sum));
  return result;
#else
  for (int i = 0; i < 4; ++i) {
    sum += static_cast<i32>(bytes >> 8 * i & 255) * static_cast<signed char>(weights >> 8 * i & 255);
  }
  return sum;
#endif
}

__device__ inline i64 clip(i64 value, i64 low, i64 high) { return value < low ? low : value > high ? high : value; }

__device__ inline void put_level(const Planes& out, i64 position, i32 channel, i64 level) {
  out.high[position * out.stride + channel] = static_cast<u8>(level >> 8);
  out.low[position * out.stride + channel] = static_cast<u8>(level);
}

// Return the column of position j of a row that holds anchors, or non-anchors, alone.
__device__ inline i32 column_of(i32 row, i32 j, bool anchors) { return 2 * j + ((row & 1) ^ (anchors ? 1 : 0)); }

constexpr i32 kTile = 4;  // positions of one thread, which share each weight that it loads

// Add mult * acc of one input to the totals of kTile positions.
template <bool kFine>
__device__ inline void add_input(const Layer& layer, const Input& input, i32 output, const i32* rows,
                                 const i32* columns, i64* totals) {
  const i32 margin = input.kernel / 2;
  i32 high_sums[kTile] = {}, low_sums[kTile] = {}, fine_sums[kTile] = {};
  i64 weight = output;
  for (i32 tap = 0; tap < input.kernel * input.kernel; ++tap) {
    const u32 *high[kTile], *low[kTile];
    for (i32 i = 0; i < kTile; ++i) {
      const i32 row = rows[i] + tap / input.kernel - margin, column = columns[i] + tap % input.kernel - margin;
      if (row >= 0 && row < layer.height && column >= 0 && column < layer.width) {
        const i64 start = (static_cast<i64>(row) * layer.width + column) * input.stride;
        high[i] = input.high + start;
        low[i] = input.low + start;
      } else {
        high[i] = input.zero;
        low[i] = input.zero + input.words;
      }
    }
    for (i32 word = 0; word < input.words; ++word, weight += layer.outputs) {
      const u32 u = input.weights[weight];
      const u32 v = kFine ? input.weights_low[weight] : 0;
      for (i32 i = 0; i < kTile; ++i) {
        high_sums[i] = dot4(high[i][word], u, high_sums[i]);
        if (kFine) {
          low_sums[i] = dot4(low[i][word], u, low_sums[i]);
          fine_sums[i] = dot4(high[i][word], v, fine_sums[i]);
        }
      }
    }
  }
  const i64 mult = input.mult[output];
  for (i32 i = 0; i < kTile; ++i) {
    const i64 high_sum = high_sums[i], low_sum = low_sums[i], fine_sum = fine_sums[i];
    totals[i] += mult * (kFine ? 32768 * high_sum + 128 * low_sum + 256 * fine_sum : high_sum);
  }
}

// Return how many of 63 rising thresholds are less than a scale.
__device__ inline i32 scale_index_of(const i32* thresholds, i32 scale) {
  i32 below = 0;
  for (i32 step = 32; step > 0; step /= 2) {
    if (thresholds[below + step - 1] < scale) {
      below += step;
    }
  }
  return below;
}

// Write what a layer ends in at one position [row, column], the n-th of those that are computed.
__device__ inline void finish(const Layer& layer, i32 row, i32 column, i64 n, i32 output, i64 t) {
  i64 position = layer.in_place ? static_cast<i64>(row) * layer.width + column : n;
  i32 channel = output, channels = layer.outputs;
  if (layer.shuffles) {
    channels /= 4;
    channel = output / 4;
    position = (2 * static_cast<i64>(row) + output / 2 % 2) * (2 * layer.width) + 2 * column + output % 2;
  }
  const i32 wide = static_cast<i32>(clip(t, -1048576, 1048575));
  switch (layer.end) {
    case kTable:
      put_level(layer.out, position, channel, layer.lut[clip(t, -2048, 2047) + 2048]);
      break;
    case kLevels:
      put_level(layer.out, position, channel, clip(t, 0, 65535));
      break;
    case kWide:
      layer.wide[position * channels + channel] = wide;
      break;
    case kBlock: {
      const i64 leaky = wide < 0 ? (static_cast<i64>(wide) * layer.slope + 32768) >> 16 : wide;
      const i64 sum = leaky + layer.wide[position * channels + channel];
      const i64 level = (sum * layer.out_mult[channel] + layer.out_offset[channel]) >> layer.out_shift;
      put_level(layer.out, position, channel, clip(level, 0, 65535));
      break;
    }
    case kParameters: {
      const i32 half = layer.outputs / 2;
      if (output >= half) {
        layer.wide[n * half + output - half] = wide;
      } else {
        const i32 index = scale_index_of(layer.thresholds, wide);
        layer.scale_index[n * half + output] = static_cast<u8>(index < layer.skip_below ? 0 : index);
      }
      break;
    }
  }
}

// Threads: outputs along y of the grid and x of the block; kTile positions each along x of the grid and y of the block.
extern "C" __global__ void run_layer(const Layer layer) {
  const i32 output = static_cast<i32>(blockIdx.y * blockDim.x + threadIdx.x);
  const i64 first = (static_cast<i64>(blockIdx.x) * blockDim.y + threadIdx.y) * kTile;
  const i32 row_length = layer.positions == kAll ? layer.width : layer.width / 2;
  const i64 count = static_cast<i64>(layer.height) * row_length;
  if (output >= layer.outputs || first >= count) {
    return;
  }
  i32 rows[kTile], columns[kTile];
  i64 totals[kTile];
  for (i32 i = 0; i < kTile; ++i) {
    const i64 n = first + i < count ? first + i : count - 1;  // what is beyond is computed as well, but not written
    rows[i] = static_cast<i32>(n / row_length);
    columns[i] = static_cast<i32>(n % row_length);
    if (layer.positions != kAll) {
      columns[i] = column_of(rows[i], columns[i], layer.positions == kAnchors);
    }
    totals[i] = layer.offset[output];
  }
  for (i32 i = 0; i < layer.n_inputs; ++i) {
    if (layer.inputs[i].weights_low != nullptr) {
      add_input<true>(layer, layer.inputs[i], output, rows, columns, totals);
    } else {
      add_input<false>(layer, layer.inputs[i], output, rows, columns, totals);
    }
  }
  for (i32 i = 0; i < kTile && first + i < count; ++i) {
    finish(layer, rows[i], columns[i], first + i, output, totals[i] >> layer.shift);
  }
}

// Threads: one a word, along x.
extern "C" __global__ void look_up(const Lookup lookup) {
  const i64 n = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (n >= lookup.positions * lookup.words) {
    return;
  }
  const i64 from = lookup.indices[n / lookup.words] * lookup.words + n % lookup.words;
  lookup.high[n] = lookup.codes_high[from];
  lookup.low[n] = lookup.codes_low[from];
}

// Threads: one a value of the whole grid, along x.
extern "C" __global__ void store(const Store store) {
  const i64 n = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (n >= static_cast<i64>(store.height) * store.width * store.channels) {
    return;
  }
  const i32 channel = static_cast<i32>(n % store.channels);
  const i64 position = n / store.channels;
  const i32 row = static_cast<i32>(position / store.width), column = static_cast<i32>(position % store.width);
  if (column == column_of(row, column / 2, store.anchors != 0)) {
    const i64 place = (static_cast<i64>(row) * (store.width / 2) + column / 2) * store.channels + channel;
    const i64 level =
        (static_cast<i64>(store.values[place]) * store.mult[channel] + store.offset[channel]) >> store.shift;
    put_level(store.out, position, channel, clip(level, 0, 65535));
  } else if (store.anchors) {
    put_level(store.out, position, channel, store.zero[channel]);
  }
}
