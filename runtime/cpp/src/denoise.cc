#include "denoise.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "rows.h"

namespace rdeic::denoise {
namespace {

using backends::Binding;
using backends::Place;
using backends::Value;

/// Returns weights[0] x + weights[1] y.
Tensor<float> combine(const Tensor<float>& x, const Tensor<float>& y, std::array<float, 2> weights) {
  Tensor<float> out(x.shape());
  for (std::size_t i = 0; i < out.size(); ++i) out.data()[i] = weights[0] * x.data()[i] + weights[1] * y.data()[i];
  return out;
}

}  // namespace

StepRows step_rows(const Arrays& arrays, std::size_t n_steps, const GraphSpec& control, const GraphSpec& unet_step) {
  return {rows_of(arrays, "control", n_steps, control, "step"),
          rows_of(arrays, "unet_step", n_steps, unet_step, "step")};
}

Tensor<float> start(const Schedule& schedule, const Tensor<float>& z_c, const Tensor<float>& noise) {
  return combine(
      z_c, noise,
      {static_cast<float>(std::sqrt(schedule.abar_start)), static_cast<float>(std::sqrt(1 - schedule.abar_start))});
}

Tensor<float> run_step(const Denoiser& denoiser, std::size_t step, const Tensor<float>& z_n, const Tensor<float>& hint,
                       const Tensor<float>& noise, double sharpness) {
  const backends::Graph& control = *denoiser.control;
  const Value z = Value::of(z_n), seen = Value::of(hint), control_row = Value::of(denoiser.rows->control[step]);
  const std::array control_inputs = {Binding{"z_n", &z}, Binding{"hint", &seen}, Binding{"step", &control_row}};
  const std::vector<Value> residuals = control.run(control_inputs, Place::kDevice);

  Tensor<float> coefficients({3});
  const Schedule& schedule = denoiser.schedule;
  std::ranges::transform(std::array{schedule.a[step], schedule.b[step], schedule.c[step]}, coefficients.data(),
                         [](double value) { return static_cast<float>(value); });
  const Value abc = Value::of(coefficients), added = Value::of(noise), row = Value::of(denoiser.rows->unet_step[step]);
  const auto predict = [&](const std::vector<Value>& seen_residuals) {
    std::vector<Binding> inputs = {{"z_n", &z}, {"step", &row}, {"coefficients", &abc}, {"noise", &added}};
    for (std::size_t i = 0; i < seen_residuals.size(); ++i) {
      inputs.push_back({control.spec().outputs[i].name, &seen_residuals[i]});
    }
    const std::vector<Value> outputs = denoiser.unet_step->run(inputs, Place::kHost);
    return outputs[0].tensor<float>(z_n.shape(), "z_prev of the unet_step graph");
  };
  Tensor<float> controlled = predict(residuals);
  if (sharpness == 1.0) return controlled;

  std::vector<Tensor<float>> zeros;
  std::vector<Value> no_residuals;
  for (const Value& residual : residuals) {
    Tensor<float>& zero = zeros.emplace_back(residual.shape());
    std::ranges::fill(zero.values(), 0.0F);
    no_residuals.push_back(Value::of(zero));
  }
  return combine(controlled, predict(no_residuals),
                 {static_cast<float>(sharpness), static_cast<float>(1.0 - sharpness)});
}

}  // namespace rdeic::denoise
