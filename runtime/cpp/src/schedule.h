#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace rdeic {

/// The fixed loop of one sampler, steps in running order (docs/bundle.md). All vectors have one entry a step, 1 or
/// more.
struct Schedule {
  std::string name;     // its key in bundle.json
  std::string sampler;  // ddpm or ddim
  std::vector<std::int32_t> timesteps;
  double abar_start = 0;        // abar_N in z_N = sqrt(abar_N) z_c + sqrt(1 - abar_N) eps
  std::vector<double> a, b, c;  // z_(n-1) = a z_n + b eps + c noise

  std::size_t n_steps() const { return timesteps.size(); }
};

}  // namespace rdeic
