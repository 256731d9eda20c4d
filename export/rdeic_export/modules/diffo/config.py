"""The configuration the DiffO networks are built from, with the full-size and the small model as values of it.

Sizes of the full model are those of the released configuration (Freemasti/DiffO, commit dd56f49).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from ..config import LinearVaeConfig

Mask = Literal["released", "textbook"]
COARSEST = 4  # positions of the latent per code along a side, at most; the released code reads 1 or 2


@dataclass(frozen=True)
class AutoencoderConfig:
    """Encoder and decoder of residual blocks: of images (VQGAN) or of latents.

    Attributes:
        in_channels: channels of what is encoded and decoded, before ``pixel_unshuffle``.
        stem_channels: width of the encoder's first convolution.
        channels: width of each resolution level, finest first.
        attention_levels: which levels have attention after every residual block.
        z_channels: channels between the convolutions that end the encoder and begin the decoder.
        embed_dim: channels of the encoder's result, behind a 1x1 convolution.
        layers_per_block: residual blocks per encoder level (the decoder has one more).
        mid_attention: whether the middle block has attention.
        norm_groups: groups of every GroupNorm.
        pixel_unshuffle: space-to-depth factor applied to the input first; 1 leaves it alone.
    """

    in_channels: int
    stem_channels: int
    channels: tuple[int, ...]
    attention_levels: tuple[bool, ...]
    z_channels: int
    embed_dim: int
    layers_per_block: int = 2
    mid_attention: bool = True
    norm_groups: int = 32
    pixel_unshuffle: int = 1

    def __post_init__(self) -> None:
        if len(self.attention_levels) != len(self.channels):
            raise ValueError(f"{len(self.attention_levels)} attention levels for {len(self.channels)} levels")

    @property
    def factor(self) -> int:
        """Positions of the input per position of the result along one side."""
        return int(self.pixel_unshuffle * 2 ** (len(self.channels) - 1))


@dataclass(frozen=True)
class SwinUNetConfig:
    """The denoiser: a UNet of residual blocks with a Swin layer in the first block of every level.

    Attributes:
        channels: width of each resolution level, finest first.
        layers_per_block: residual blocks of each encoder level (the decoder has one more).
        windows: side of the attention windows of each level; the middle has that of the last.
        hint_channels: channels that the condition z_y is reduced to.
        swin_dim: width inside the Swin layers.
        head_dim: width of one attention head.
        mlp_ratio: hidden width of a Swin block's perceptron over ``swin_dim``.
        norm_groups: groups of every GroupNorm.
        mask: which tokens of a shifted window see each other, see `swin.regions`. Released weights need theirs.
        adds_base: whether what it predicts is added to z_y_start. Released weights predict z_0 itself.
    """

    channels: tuple[int, ...] = (160, 320, 320, 640)
    layers_per_block: tuple[int, ...] = (2, 2, 2, 2)
    windows: tuple[int, ...] = (4, 4, 4, 2)
    hint_channels: int = 64
    swin_dim: int = 192
    head_dim: int = 32
    mlp_ratio: int = 4
    norm_groups: int = 32
    mask: Mask = "released"
    adds_base: bool = False

    def __post_init__(self) -> None:
        if not len(self.channels) == len(self.layers_per_block) == len(self.windows):
            raise ValueError(
                f"{len(self.channels)} channels, {len(self.layers_per_block)} layers_per_block and "
                f"{len(self.windows)} windows; each needs one entry a level"
            )

    @property
    def time_dim(self) -> int:
        """Width of the time embedding."""
        return 4 * self.channels[0]

    @property
    def multiple(self) -> int:
        """Sides of the latent are a multiple of this, so that windows of every level are whole."""
        return math.lcm(*(window * 2**level for level, window in enumerate(self.windows)))


@dataclass(frozen=True)
class ResShiftConfig:
    """Noise schedule of ResShift (arXiv 2307.12348), with sqrt(eta) growing exponentially.

    Attributes:
        kappa: noise over residual.
        sqrt_eta_end: sqrt(eta) of the last timestep, where decoding starts: the rate's noise level.
        min_noise_level: bounds sqrt(eta) of timestep 0.
        timesteps: how many the model was trained with.
        power: bends the exponent; without effect for two timesteps.
    """

    kappa: float = 2.0
    sqrt_eta_end: float = 0.8
    min_noise_level: float = 0.04
    timesteps: int = 2
    power: float = 0.3


@dataclass(frozen=True)
class DiffoConfig:
    """Everything that defines the networks of one DiffO model.

    Attributes:
        name: of the model.
        vqgan: image to z_start and back, frozen: a VQGAN, or the linear transform of the small RDEIC model.
        latent: z_start to z_e, and the code vectors back to z_y_start.
        unet: (z_t, z_y) to z_0.
        codebook_size: K, number of code vectors: what a rate is chosen by.
        diffusion: noise schedule.
    """

    name: str
    vqgan: AutoencoderConfig | LinearVaeConfig
    latent: AutoencoderConfig
    unet: SwinUNetConfig = field(default_factory=SwinUNetConfig)
    codebook_size: int = 256
    diffusion: ResShiftConfig = field(default_factory=ResShiftConfig)

    def __post_init__(self) -> None:
        if not self.latent_channels == self.latent.in_channels == self.latent.embed_dim:
            raise ValueError(
                f"{self.name}: latents have {self.latent_channels} channels, the latent autoencoder reads "
                f"{self.latent.in_channels} and its codes have {self.latent.embed_dim}; they must be equal"
            )
        if self.latent.factor > COARSEST:
            raise ValueError(
                f"{self.name}: codes at 1/{self.latent.factor} of the latent; the coarsest are at 1/{COARSEST}"
            )

    @property
    def latent_channels(self) -> int:
        """Channels of the latent, and of code vectors."""
        return self.vqgan.latent_channels if isinstance(self.vqgan, LinearVaeConfig) else self.vqgan.embed_dim

    @property
    def latent_px(self) -> int:
        """Pixels along a side that a position of the latent stands for."""
        return self.vqgan.factor_px if isinstance(self.vqgan, LinearVaeConfig) else self.vqgan.factor

    @property
    def index_px(self) -> int:
        """Pixels along a side that an index stands for."""
        return self.latent_px * self.latent.factor

    def at(
        self, *, codebook_size: int | None = None, index_px: int | None = None, sqrt_eta: float | None = None
    ) -> DiffoConfig:
        """Return the configuration of one rate: K, the fineness of its codes and its noise; None leaves it as it is.

        Raises:
            ValueError: codes are to be finer than the latent, or more than `COARSEST` times as coarse; K < 2; no
                positive noise.
        """
        latent = self.latent
        if index_px is not None and index_px != self.index_px:
            possible = [self.latent_px << level for level in range(COARSEST.bit_length())]
            if index_px not in possible:
                raise ValueError(
                    f"codes of {index_px} pixels; latents of {self.latent_px} can have codes of "
                    f"{' or '.join(map(str, possible))}"
                )
            levels = possible.index(index_px) + 1
            # A level more has the width of the last, and no attention, as the released code's resolutions give it.
            channels = (*latent.channels, *[latent.channels[-1]] * levels)[:levels]
            attention = (*latent.attention_levels, *[False] * levels)[:levels]
            latent = replace(latent, channels=channels, attention_levels=attention)
        size = self.codebook_size if codebook_size is None else codebook_size
        end = self.diffusion.sqrt_eta_end if sqrt_eta is None else sqrt_eta
        if not 2 <= size <= 1 << 16:
            raise ValueError(f"{size} code vectors; there are 2 to 65536")
        if not 0.0 < end <= 1.0:
            raise ValueError(f"sqrt(eta) is {end:g}; it is over 0 and at most 1")
        return replace(self, latent=latent, codebook_size=size, diffusion=replace(self.diffusion, sqrt_eta_end=end))

    @property
    def image_multiple_px(self) -> int:
        """Image sides are padded to a multiple of this: 256 for the released model."""
        return self.latent_px * math.lcm(self.unet.multiple, self.latent.factor)


DIFFO = DiffoConfig(
    name="diffo",
    vqgan=AutoencoderConfig(
        in_channels=3,
        stem_channels=128,
        channels=(128, 128, 256, 256, 512),
        attention_levels=(False, False, False, False, True),
        z_channels=256,
        embed_dim=256,
    ),
    latent=AutoencoderConfig(
        in_channels=256, stem_channels=128, channels=(512,), attention_levels=(True,), z_channels=256, embed_dim=256
    ),
)

# Small enough for a CPU. Latents and D are those of the small RDEIC model: a linear transform of blocks of 8x8 pixels,
# so there is no VQGAN to train; each coefficient is scaled to a variance of one (`LinearVae.rescale`). Weights are our
# own, so windows are masked as Swin describes it. No attention is global.
DIFFO_TINY = DiffoConfig(
    name="diffo-tiny",
    vqgan=LinearVaeConfig(latent_channels=24),
    latent=AutoencoderConfig(
        in_channels=24,
        stem_channels=48,
        channels=(48, 96),
        attention_levels=(False, False),
        z_channels=32,
        embed_dim=24,
        layers_per_block=1,
        mid_attention=False,
        norm_groups=16,
    ),
    unet=SwinUNetConfig(
        channels=(48, 96),
        layers_per_block=(1, 1),
        windows=(4, 2),
        hint_channels=32,
        swin_dim=48,
        head_dim=16,
        norm_groups=16,
        mask="textbook",
        adds_base=True,
    ),
)
