"""Stage *base* of DiffO: latent autoencoder and codebook learn what of a photo's latents indices can tell.

    python -m training.train_diffo_base --rate low --crops runs/crops.npy --validation val.tar \
        --init runs/decoder/weights.safetensors --out runs/low/base

E and D are the small RDEIC model's, of which ``--init`` has ``vae.*``. The loss is squared error of latents, weighted
as pixels see it; D is not run, so that steps are short. The codebook starts from clusters of z_e.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import diffo, loop
from .codebook import Codebook, vectors_of

START_VECTORS = 16  # vectors a code that clusters are found among


def main() -> None:
    """Run the stage; the result is ``weights.safetensors`` with keys ``vqgan.*`` and ``codec.*``."""
    args = diffo.parser(__doc__ or "").parse_args()
    setup = diffo.prepare(args, "base")
    model, options = setup.model, setup.options
    diffo.start_from_rdeic(setup, args.init)
    model.vqgan.requires_grad_(False)
    weights = diffo.latent_weights(model)
    codebook = Codebook(model.codec.quantize)
    if not (setup.out / loop.CHECKPOINT).exists():
        _start(setup, codebook)

    def loss(image: Tensor) -> tuple[Tensor, loop.Parts]:
        z_start = model.vqgan.latents(image).detach()
        made = codebook.quantise(model.codec.encode(z_start))
        error = (weights * (model.codec.decode(made.z_y).float() - z_start).square()).mean()
        total = error + options["commitment_weight"] * made.commitment
        return total, {
            "latent": error.detach(),
            "commitment": made.commitment.detach(),
            "codes": codebook.used(),
        }

    def decode(image: Tensor) -> tuple[Tensor, Tensor]:
        indices = model.analyse(image)
        return model.vqgan.decode(model.codec.synthesise(indices)[1]), indices

    trained = {"vqgan": model.vqgan, "codec": model.codec}
    diffo.run(setup, trained, loss, lambda: diffo.validate(setup, decode), codebook.after_step)


@torch.no_grad()
def _start(setup: diffo.DiffoSetup, codebook: Codebook) -> None:
    """Start the codebook from clusters of what the untrained VQ-E makes of photos."""
    model = setup.model
    found: list[Tensor] = []
    while sum(len(vectors) for vectors in found) < START_VECTORS * model.config.codebook_size:
        found.append(vectors_of(model.codec.encode(model.vqgan.latents(setup.batch(len(found))))))
    per_step = len(found[0]) * loop.process_count()
    codebook.start(torch.cat(found), per_step, torch.Generator().manual_seed(setup.seed))


if __name__ == "__main__":
    main()
