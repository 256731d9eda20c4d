"""The one configuration every network is built from, with the full-size and the embedded model as values of it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class VaeConfig:
    """Autoencoder: a diffusers ``AutoencoderKL`` behind an optional pixel-unshuffle.

    Attributes:
        channels: width of each resolution level, finest first.
        layers_per_block: residual blocks per encoder level (the decoder has one more).
        latent_channels: C, channels of z_0 and z_c.
        scale_factor: latents are multiplied by this before diffusion (0.18215 for Stable Diffusion).
        pixel_unshuffle: space-to-depth factor applied to the image first; 1 leaves the image alone.
        mid_attention: whether the middle block has self-attention.
        norm_groups: groups of every GroupNorm.
    """

    channels: tuple[int, ...]
    layers_per_block: int = 2
    latent_channels: int = 4
    scale_factor: float = 0.18215
    pixel_unshuffle: int = 1
    mid_attention: bool = True
    norm_groups: int = 32

    @property
    def factor_px(self) -> int:
        """Pixels per latent position along one side (8 for every supported model)."""
        return int(self.pixel_unshuffle * 2 ** (len(self.channels) - 1))

    @property
    def feature_channels(self) -> int:
        """Channels of what g_a reads."""
        return self.channels[-1]


@dataclass(frozen=True)
class LinearVaeConfig:
    """A fixed linear transform of pixel blocks as encoder, and its inverse with a network beside it as decoder.

    Attributes:
        latent_channels: C, coefficients kept of each block.
        factor_px: side of a block.
        width: channels of the decoder at the latent's resolution.
        blocks: residual blocks there.
        fine_width: channels at a quarter of the image's resolution.
        fine_blocks: residual blocks there.
        pixel_width: channels at full resolution, under the last convolution.
    """

    latent_channels: int
    factor_px: int = 8
    width: int = 128
    blocks: int = 4
    fine_width: int = 48
    fine_blocks: int = 3
    pixel_width: int = 12

    @property
    def scale_factor(self) -> float:
        """Of latents before diffusion: the transform has its scale already."""
        return 1.0

    @property
    def feature_channels(self) -> int:
        """Channels of what g_a reads: the pixels of a block."""
        return 3 * self.factor_px**2


@dataclass(frozen=True)
class CompressionConfig:
    """Transforms, vector-quantised hyperprior and space-channel context model (RDEIC section 3.1).

    Attributes:
        hyper_channels: N, channels of the hyper latent l_p and of each code vector.
        latent_channels: M, channels of y and of the hint.
        slices: channels of each slice of y in coding order; they add up to M.
        codebook_size: number of code vectors.
        context_widths: hidden widths of the channel-context networks.
        hyper_widths: channels of the hyper decoder, at full resolution; None for the released M, 3/2 M and 2M.
        rates: K, rates that share the module through gain vectors; None for a module of its own for each rate, with
            the released layers.
        analysis_width, synthesis_width: channels of g_a and g_s inside, where ``rates`` is given.
    """

    hyper_channels: int = 256
    latent_channels: int = 256
    slices: tuple[int, ...] = (8, 8, 8, 8, 16, 16, 32, 32, 64, 64)
    codebook_size: int = 16384
    context_widths: tuple[int, int] = (224, 128)
    hyper_widths: tuple[int, ...] | None = None
    rates: int | None = None
    analysis_width: int = 128
    synthesis_width: int = 128

    def __post_init__(self) -> None:
        if sum(self.slices) != self.latent_channels:
            raise ValueError(f"slices {self.slices} add up to {sum(self.slices)}, not to M = {self.latent_channels}")


@dataclass(frozen=True)
class UNetConfig:
    """The frozen noise estimator: Stable Diffusion's UNet and, at reduced width, the control net's encoder.

    Attributes:
        channels: width of each resolution level, finest first.
        layers_per_block: residual blocks per encoder level (the decoder has one more).
        attention_levels: which levels, and the middle block if any is set, have a transformer block.
        head_dim: width of one attention head.
        context_dim: channels of the text context.
        context_tokens: tokens of the text context.
        norm_groups: groups of every GroupNorm.
    """

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    head_dim: int = 64
    context_dim: int = 1024
    context_tokens: int = 77
    norm_groups: int = 32

    @property
    def time_dim(self) -> int:
        """Width of the time embedding."""
        return 4 * self.channels[0]


@dataclass(frozen=True)
class ControlConfig:
    """The control net: a narrow copy of the UNet's encoder and middle (RDEIC section 3.1).

    Attributes:
        width_ratio: its width relative to the base UNet.
        head_dim: largest width of an attention head; the largest divisor of the channels up to it is taken.
    """

    width_ratio: float = 0.2
    head_dim: int = 16


@dataclass(frozen=True)
class DiffusionConfig:
    """Noise schedule of Stable Diffusion; ``used_timesteps`` is N, where decoding starts (RDEIC section 4.1)."""

    linear_start: float = 0.00085
    linear_end: float = 0.012
    timesteps: int = 1000
    used_timesteps: int = 300


@dataclass(frozen=True)
class ModelConfig:
    """Everything that defines the networks of one codec model."""

    name: str
    vae: VaeConfig | LinearVaeConfig
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)

    @property
    def image_multiple_px(self) -> int:
        """Image sides are padded to a multiple of this: the hyper latent is at 1/64."""
        return self.vae.factor_px * 8


SD21 = ModelConfig(name="sd21", vae=VaeConfig(channels=(128, 256, 512, 512)))

# The embedded model. Latents are a fixed linear transform, and one compression module serves all rates.
TINY_2 = ModelConfig(
    name="tiny-2",
    vae=LinearVaeConfig(latent_channels=24),
    compression=CompressionConfig(
        hyper_channels=64,
        latent_channels=96,
        slices=(8, 8, 16, 64),
        codebook_size=256,
        context_widths=(64, 48),
        hyper_widths=(48, 96),
        rates=4,
    ),
    unet=UNetConfig(
        channels=(64, 128),
        layers_per_block=1,
        attention_levels=(False, False),
        head_dim=16,
        context_dim=16,
        context_tokens=1,
        norm_groups=16,
    ),
    control=ControlConfig(width_ratio=0.5),
    diffusion=DiffusionConfig(used_timesteps=150),
)
