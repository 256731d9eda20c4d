// DiffO: VQ indices are coded; one step makes z_0 of their base and noise.
//
//   decode    vq_indices - synthesis -> z_c, hint     z_c, noise - start -> z_N
//             z_N, hint - unet_step -> z_0 - vae_decoder -> image
//   preview   vq_indices - synthesis -> z_c - vae_decoder -> image

import { resolve } from "../shapes.js";
import { graphStage, startStage } from "./base.js";

/** Returns the first and last stage of decoding, which previews share. */
function ends(load) {
  return [
    graphStage("synthesis", load, "synthesis", ["z_c", "hint"]),
    graphStage("vae", load, "vae_decoder", ["image"], "z_0"),
  ];
}

export const diffo = {
  name: "diffo",
  latents: { vq_indices: "synthesis" },

  /** Makes an image of z_c, the decoded base. */
  preview(load) {
    const [synthesis, vae] = ends(load);
    return {
      stages: [synthesis, vae],
      async run(at, { vq_indices }) {
        const [z_c] = await at.each(synthesis, { vq_indices });
        return (await at.each(vae, { z_0: z_c }))[0];
      },
    };
  },

  /** Makes an image in one step from z_c. */
  decoder(load, schedule) {
    const [synthesis, vae] = ends(load);
    const unetStep = graphStage("denoise", load, "unet_step", ["z_0"]);
    const start = startStage(schedule, unetStep.inputs.z_n);
    return {
      stages: [synthesis, start, unetStep, vae],
      async run(at, given) {
        const [z_c, hint] = await at.each(synthesis, { vq_indices: given.vq_indices });
        const noise = given.noise(0, resolve(unetStep.inputs.z_n.shape, given.sizes));
        const [z_n] = await at.each(start, { z_c, noise });
        const [z_0] = await at.each(unetStep, { z_n, hint });
        return (await at.each(vae, { z_0 }))[0];
      },
    };
  },
};
