// RDEIC: y and VQ indices are coded; denoising starts from z_c plus slight noise.
//
//   decode    y_hat - synthesis -> z_c, hint          z_c, noise - start -> z_N
//             L x (z_n, hint - control -> residuals;  z_n, residuals - unet_step -> z_(n-1) = a z_n + b eps + c noise)
//             z_0 - vae_decoder -> image
//   preview   y_hat - synthesis -> z_c - vae_decoder -> image
//
// Guidance (Eq. 11) scales how far a step moves away from what the frozen denoiser does on its own, which is unet_step
// with zero residuals. The update is linear in eps, so results are combined: z = s z_controlled + (1 - s) z_plain.

import { runChecked } from "../graphs.js";
import { resolve } from "../shapes.js";
import { row, weightedSum, zerosLike } from "../tensors.js";
import { byName, graphStage, levelInput, startStage } from "./base.js";

const GUIDANCE = { name: "guidance", dtype: "float32", shape: [2] };

function stepStage(load, schedule, number) {
  const control = load.graph("control"),
    unetStep = load.graph("unet_step");
  const coefficients = row([schedule.a[number], schedule.b[number], schedule.c[number]]);

  async function run({ z_n, hint, noise, guidance }) {
    const residuals = await runChecked(control, { z_n, hint, step: load.stepRow("control", number) });
    const given = { z_n, noise: noise ?? zerosLike(z_n), step: load.stepRow("unet_step", number), coefficients };
    const predict = async (added) => (await runChecked(unetStep, { ...given, ...added })).z_prev;
    const controlled = await predict(residuals);
    if (!guidance) return [controlled];
    const none = Object.fromEntries(Object.entries(residuals).map(([name, value]) => [name, zerosLike(value)]));
    return [weightedSum(controlled, await predict(none), guidance.data)];
  }

  return {
    name: "denoise",
    graphs: [control, unetStep],
    inputs: byName([...control.spec.inputs, ...unetStep.spec.inputs, GUIDANCE]),
    outputs: unetStep.spec.outputs.filter(({ name }) => name === "z_prev"),
    finite: null,
    run,
  };
}

/** Returns the first and last stage of decoding, which previews share. */
function ends(load) {
  return [
    graphStage("synthesis", load, "synthesis", ["z_c", "hint"]),
    graphStage("vae", load, "vae_decoder", ["image"], "z_0"),
  ];
}

const features = (given) => ({ y_hat: given.y_hat, level: given[levelInput("synthesis")] });

export const rdeic = {
  name: "rdeic",
  latents: { y_hat: "synthesis" },

  /** Makes an image of z_c, which is an estimate of z_0. */
  preview(load) {
    const [synthesis, vae] = ends(load);
    return {
      stages: [synthesis, vae],
      async run(at, given) {
        const [z_c] = await at.each(synthesis, features(given));
        return (await at.each(vae, { z_0: z_c }))[0];
      },
    };
  },

  /** Makes an image in L steps from z_c. */
  decoder(load, schedule) {
    const [synthesis, vae] = ends(load);
    const start = startStage(schedule, vae.inputs.z_0);
    const steps = schedule.a.map((_, number) => stepStage(load, schedule, number));
    return {
      stages: [synthesis, start, ...steps, vae],
      async run(at, given) {
        const dims = resolve(vae.inputs.z_0.shape, given.sizes);
        const guidance = given.sharpness === 1 ? undefined : row([given.sharpness, 1 - given.sharpness]);
        const [z_c, hint] = await at.each(synthesis, features(given));
        let [z_n] = await at.each(start, { z_c, noise: given.noise(0, dims) });
        for (const [number, step] of steps.entries()) {
          const noise = schedule.c[number] === 0 ? undefined : given.noise(number + 1, dims);
          [z_n] = await at.each(step, { z_n, hint, noise, guidance });
        }
        return (await at.each(vae, { z_0: z_n }))[0];
      },
    };
  },
};
