// Times entropy decoding on one thread, with each kernel that this CPU runs: what tests/bench/bench_wasm.py compares
// WebAssembly with.
//
//   bench_entropy BUNDLE RUNS FILE...     for each file and kernel: KERNEL and the milliseconds of the fastest run

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <vector>

#include "arrays.h"
#include "bundle.h"
#include "bundle_tables.h"
#include "container.h"
#include "latents.h"

namespace {

std::vector<std::uint8_t> content_of(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return EXIT_FAILURE;
  const rdeic::Bundle bundle = rdeic::read_bundle(argv[1]);
  rdeic::entropy::Workers workers(1);
  for (int i = 3; i < argc; ++i) {
    const std::vector<std::uint8_t> data = content_of(argv[i]);
    const rdeic::File file = rdeic::parse(data, {});
    const rdeic::Rate& rate = bundle.rate_of(file.header.model_id, file.header.rate);
    const auto model = rdeic::model_of(bundle, rate, rdeic::Arrays::read(rate.entropy));
    const auto shapes = rdeic::latent_shapes(bundle, rate, rdeic::sizes_of(bundle, file.header.size));
    for (const rdeic::entropy::Kernels& kernels : rdeic::entropy::available_kernels()) {
      double fastest_ms = 1e9;
      for (int run = 0; run < std::atoi(argv[2]); ++run) {
        const auto start = std::chrono::steady_clock::now();
        model->decode({kernels, workers}, file, shapes, {});
        const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
        fastest_ms = std::min(fastest_ms, took.count());
      }
      std::printf("%s %.2f\n", kernels.name, fastest_ms);
    }
  }
  return EXIT_SUCCESS;
}
