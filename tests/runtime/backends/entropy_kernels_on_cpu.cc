// The kernels of entropy_kernels.cu as C++: one thread after the other, in place of a GPU.

#include <cstddef>
#include <cstring>

struct Index {
  unsigned x, y, z;
};
thread_local Index blockIdx, blockDim, threadIdx;
#define __global__
#define __device__

#include "entropy_kernels.cu"

template <typename Arguments>
static void run(void (*kernel)(Arguments), const void* given, Index grid, Index block) {
  Arguments arguments;
  std::memcpy(&arguments, given, sizeof arguments);
  blockDim = block;
  for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
    for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
      for (threadIdx.y = 0; threadIdx.y < block.y; ++threadIdx.y) {
        for (threadIdx.x = 0; threadIdx.x < block.x; ++threadIdx.x) {
          kernel(arguments);
        }
      }
    }
  }
}

// Return how many bytes of arguments a kernel takes; 0 if there is no such kernel.
extern "C" std::size_t arguments_bytes(const char* name) {
  return std::strcmp(name, "run_layer") == 0 ? sizeof(Layer)
         : std::strcmp(name, "look_up") == 0 ? sizeof(Lookup)
         : std::strcmp(name, "store") == 0   ? sizeof(Store)
                                             : 0;
}

extern "C" void launch(const char* name, const void* arguments, unsigned grid_x, unsigned grid_y, unsigned block_x,
                       unsigned block_y) {
  const Index grid = {grid_x, grid_y, 1}, block = {block_x, block_y, 1};
  if (std::strcmp(name, "run_layer") == 0) {
    run(run_layer, arguments, grid, block);
  } else if (std::strcmp(name, "look_up") == 0) {
    run(look_up, arguments, grid, block);
  } else {
    run(store, arguments, grid, block);
  }
}
