"""Stage *base* of DiffO: latent autoencoders and codebooks learn what of a photo's latents indices can tell.

    python -m training.train_diffo_base --crops runs/crops.npy --validation val.tar \
        --init runs/codec/weights.safetensors --out runs/diffo/base

E and D are the small RDEIC model's after its stage *codec*, of which ``--init`` has ``vae.*``. The loss is squared
error of latents, weighted as pixels see it; D is not run, so that steps are short. A codebook starts from clusters of
z_e. ``--init`` may also be what this stage left before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rdeic_export.modules.diffo.model import DiffoModel

from . import diffo, loop
from .codebook import Codebook, vectors_of

START_VECTORS = 16  # vectors a code that clusters are found among


def main() -> None:
    """Run the stage; the result is ``weights.safetensors`` with the keys of `diffo.DiffoRates`."""
    args = diffo.parser(__doc__ or "").parse_args()
    setup = diffo.prepare(args, "base")
    vae, models = setup.model.vqgan, setup.model.models
    goes_on = diffo.is_own(args.init)
    if goes_on:
        diffo.load_weights(setup.model, args.init)
    else:
        diffo.start_from_rdeic(setup, args.init)
    vae.requires_grad_(False)
    for model in models.values():
        model.unet.requires_grad_(False)
    weights = diffo.latent_weights(vae)
    books = {name: Codebook(model.codec.quantize) for name, model in models.items()}
    if not goes_on and not (setup.out / loop.CHECKPOINT).exists():
        for name, model in models.items():
            _start(setup, model, books[name])

    def loss(image: Tensor) -> tuple[Tensor, loop.Parts]:
        z_start = vae.latents(image).detach()
        total = z_start.new_zeros(())
        parts: loop.Parts = {}
        for name, model in models.items():
            made = books[name].quantise(model.codec.encode(z_start))
            error = (weights * (model.codec.decode(made.z_y).float() - z_start).square()).mean()
            total = total + error + setup.options["commitment_weight"] * made.commitment
            parts |= {
                f"{name}.base": error.detach(),
                f"{name}.commitment": made.commitment.detach(),
                f"{name}.codes": books[name].used(),
            }
        return total, parts

    def update(step: int, share: float) -> None:
        for book in books.values():
            book.after_step(step, share)

    def decode(rate: str, image: Tensor) -> tuple[Tensor, Tensor]:
        indices = models[rate].analyse(image)
        return vae.decode(models[rate].codec.synthesise(indices)[1]), indices

    diffo.run(setup, loss, lambda: diffo.validate(setup, decode), update)


@torch.no_grad()
def _start(setup: diffo.DiffoSetup, model: DiffoModel, codebook: Codebook) -> None:
    """Start a codebook from clusters of what the untrained VQ-E makes of photos."""
    found: list[Tensor] = []
    while sum(len(vectors) for vectors in found) < START_VECTORS * model.config.codebook_size:
        found.append(vectors_of(model.codec.encode(model.vqgan.latents(setup.batch(len(found))))))
    per_step = len(found[0]) * loop.process_count()
    codebook.start(torch.cat(found), per_step, torch.Generator().manual_seed(setup.seed))


if __name__ == "__main__":
    main()
