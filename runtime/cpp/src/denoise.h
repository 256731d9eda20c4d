#pragma once

// L x (control -> unet_step): z_N -> z_0, plain and guided.
//
//   z_n, hint -- control --> residuals -+
//   z_n --------------------------------+-> unet_step --> z_(n-1) = a z_n + b eps + c noise
//
// Guidance (sharpness s other than 1) scales how far a step moves away from what the frozen denoiser does on its own,
// which is unet_step with zero residuals: z = z_0 + s (z_1 - z_0).

#include <memory>
#include <vector>

#include "arrays.h"
#include "backends/ort.h"
#include "schedule.h"
#include "tensor.h"

namespace rdeic::denoise {

/// What replaces the time embedding: row n is the input `step` of a graph at step n (docs/bundle.md, "Step tables").
struct StepRows {
  std::vector<Tensor<float>> control, unet_step;  // each [1, D]
};

/// Returns a step table for graphs of these inputs, of the arrays in its file; Error(kBundleCorrupt).
StepRows step_rows(const Arrays& arrays, std::size_t n_steps, const GraphSpec& control, const GraphSpec& unet_step);

/// The two graphs of a rate and the loop that they run in.
struct Denoiser {
  std::shared_ptr<const backends::Graph> control, unet_step;
  const Schedule& schedule;
  std::shared_ptr<const StepRows> rows;
};

/// Returns z_N = sqrt(abar_start) z_c + sqrt(1 - abar_start) noise.
Tensor<float> start(const Schedule& schedule, const Tensor<float>& z_c, const Tensor<float>& noise);

/// Returns z_(n-1) of one step, like z_n [1, C, h/8, w/8]. `hint`: from `synthesis::run`; `noise`: what the step adds.
Tensor<float> run_step(const Denoiser& denoiser, std::size_t step, const Tensor<float>& z_n, const Tensor<float>& hint,
                       const Tensor<float>& noise, double sharpness);

}  // namespace rdeic::denoise
