// What families share. A stage is { name, graphs, inputs, outputs, run, finite }:
//   name      for progress, unless it runs no graphs and takes no time
//   graphs    what it runs; the last one has the outputs
//   inputs    name -> specification; outputs: specifications, in order
//   run       async, tensors by name -> tensors in the order of outputs
//   finite    an input that must hold no infinity and no NaN, of which the stage would make an image too; or null
//
// A family is { name, latents, preview(load), decoder(load, schedule) }. Both functions return a list,
// { stages, run(at, given) }: `at` is a placement (placement.js); `given` has the tensors of the file by name, rows of
// levels under `levelInput`, `noise(draw, dims)`, `sizes` and `sharpness`; the result is uint8 [1, H, W, 3].

import { runChecked } from "../graphs.js";
import { weightedSum } from "../tensors.js";

/** Returns the name under which `given` has the level row of a role. */
export const levelInput = (role) => `${role}.level`;

/** Returns specifications by name. */
export const byName = (specs) => Object.fromEntries(specs.map((spec) => [spec.name, spec]));

/** Returns the stage that runs one graph. */
export function graphStage(name, load, role, outputs, finite = null) {
  const graph = load.graph(role);
  const specs = byName(graph.spec.outputs);
  return {
    name,
    graphs: [graph],
    inputs: byName(graph.spec.inputs),
    outputs: outputs.map((output) => specs[output]),
    finite,
    run: async (inputs) => {
      const made = await runChecked(graph, inputs);
      return outputs.map((output) => made[output]);
    },
  };
}

/** Returns the stage z_N = sqrt(abar_N) z_c + sqrt(1 - abar_N) noise. */
export function startStage(schedule, latent) {
  const weights = [Math.sqrt(schedule.abarStart), Math.sqrt(1 - schedule.abarStart)].map(Math.fround);
  return {
    name: "start",
    graphs: [],
    inputs: { z_c: latent, noise: latent },
    outputs: [latent],
    finite: null,
    run: async ({ z_c, noise }) => [weightedSum(z_c, noise, weights)],
  };
}
