"""HVDM's first stage: hybrid triplane and wavelet autoencoder (arXiv 2402.13729)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from hvdm.errors import UserError
from hvdm.nets.perceptual import Perceptual, perceptual
from hvdm.recipe import Batch, Clip, Context, Given, Logs, Phase, Recipe
from hvdm.recipes.hvdm.networks import (
    Autoencoder,
    Decoder,
    Encoder,
    Patchify,
    Pixels,
    Sum,
    Triplane,
    TriplaneBranch,
    Wavelet,
    WaveletEncoder,
    joint,
)
from hvdm.recipes.hvdm.reconstruction import Reconstruction, bands_of, distances, one_frame
from hvdm.recipes.hvdm.transformer import (
    AxisProjection,
    Heads,
    ProjectionLayer,
    SpaceTimeTransformer,
)


@dataclass(frozen=True)
class Config:
    """The defaults are the paper's size for 16x256x256 clips."""

    variant: Literal["figure", "released"] = "figure"
    patch: int = 8
    width: int = 384
    depth: int = 5
    heads: int = 8
    head_dim: int = 64
    projection_depth: int = 4
    projection_heads: int = 4
    projection_head_dim: int = 48
    projection_hidden: int = 512
    conv_channels: tuple[int, ...] = (64, 192, 384, 768)
    conv_time: Literal[1, 3] = 1
    conv_norm: Literal["instance", "group"] = "instance"
    branches: Literal["both", "triplane", "wavelet"] = "both"
    wavelet: Literal["3d", "2d"] = "3d"
    fusion: Literal["attention", "sum"] = "attention"
    fusion_depth: int = 2
    latent_channels: int = 4
    pixel_weight: float = 4.0
    wavelet_weight: float = 4.0
    perceptual_weight: float = 4.0
    perceptual: Perceptual = "none"
    perceptual_weights: tuple[str, ...] = ()
    perceptual_sha256: tuple[str, ...] = ()
    activation_checkpointing: bool = False

    @property
    def released(self) -> bool:
        return self.variant == "released"


def build(config: Config, given: Given) -> Recipe:
    """The recipe for clips of `given.clip`'s shape."""
    _check_model(config)
    _check_variant(config)
    check_clip(config.patch, given.clip)
    return AutoencoderRecipe(config, given.clip)


def _check_model(config: Config) -> None:
    check_patch(config.patch, config.head_dim)
    if 2 * _halvings(config) > len(config.conv_channels) + 2:
        raise UserError(
            f"model.conv_channels={list(config.conv_channels)}: patch {config.patch} needs at "
            f"least {2 * _halvings(config) - 2} of them, one pair of convolutions for each halving"
        )


def check_patch(patch: int, head_dim: int) -> None:
    if patch not in (2, 4, 8, 16):
        raise UserError(f"model.patch={patch}: choose from: 2, 4, 8, 16")
    if head_dim % 4:
        raise UserError(
            f"model.head_dim={head_dim}: rotary embedding over height and width needs a "
            "multiple of 4"
        )


def _check_variant(config: Config) -> None:
    """The released networks have both branches, a 3D transform, and attention between them."""
    ablated = {"branches": "both", "wavelet": "3d", "fusion": "attention", "conv_norm": "instance"}
    for key, only in ablated.items():
        if config.released and getattr(config, key) != only:
            raise UserError(
                f"model.{key}={getattr(config, key)} is no part of model.variant=released, which "
                f"has {key}={only}; use model.variant=figure"
            )


def check_clip(patch: int, clip: Clip, even: bool = True) -> None:
    if even and (clip.frames < 2 or clip.frames % 2):
        raise UserError(
            f"data.frames={clip.frames}: the wavelet transform pairs frames, so it must be even"
        )
    for name, size in (("height", clip.height), ("width", clip.width)):
        if size < patch or size % patch:
            raise UserError(f"data.{name}={size}: it must be a multiple of model.patch={patch}")


def _halvings(config: Config) -> int:
    """How often the wavelet branch halves space: the DWT does it once, the patch asks for log2."""
    return config.patch.bit_length() - 2


# Networks


def _transformer(config: Config, depth: int, cross: bool = False) -> SpaceTimeTransformer:
    size = Heads(config.width, config.heads, config.head_dim)
    return SpaceTimeTransformer(
        size, depth, config.activation_checkpointing, config.released, cross
    )


def _projection(config: Config, length: int) -> AxisProjection:
    size = Heads(config.width, config.projection_heads, config.projection_head_dim)
    layers = [
        ProjectionLayer(size, config.projection_hidden) for _ in range(config.projection_depth)
    ]
    return AxisProjection(
        length, config.width, layers, config.activation_checkpointing, config.released
    )


def _planes(config: Config, clip: Clip) -> TriplaneBranch:
    axes = (clip.frames, clip.height // config.patch, clip.width // config.patch)
    return TriplaneBranch(
        Patchify(config.patch, clip.channels, config.width),
        _transformer(config, config.depth),
        Triplane(*(_projection(config, length) for length in axes)),
    )


def _wavelet(config: Config, clip: Clip) -> Wavelet:
    in_time = config.wavelet == "3d"
    bands = (clip.channels, (7 if in_time else 3) * clip.channels)
    low, high = (
        WaveletEncoder(
            inputs,
            config.conv_channels,
            config.width,
            _halvings(config),
            config.conv_time,
            config.conv_norm == "instance",
        )
        for inputs in bands
    )
    join = None if config.released else joint(config.width)
    return Wavelet(low, high, join, not config.released, in_time)


def _encoder(config: Config, clip: Clip) -> Encoder:
    planes = None if config.branches == "wavelet" else _planes(config, clip)
    wavelet = None if config.branches == "triplane" else _wavelet(config, clip)
    fusion: nn.Module | None = None
    if config.branches == "both":
        attending = config.fusion == "attention"
        fusion = _transformer(config, config.fusion_depth, cross=True) if attending else Sum()
    return Encoder(planes, wavelet, fusion, nn.Linear(config.width, config.latent_channels))


def _autoencoder(config: Config, clip: Clip) -> Autoencoder:
    encoder = _encoder(config, clip)
    pixels = Pixels(config.width, _transformer(config, config.depth), config.patch, clip.channels)
    decoder = Decoder(config.latent_channels, config.width, pixels)
    return Autoencoder(encoder, decoder, clip.frames if config.released else None)


class AutoencoderRecipe(Reconstruction):
    """L1 on pixels, L1 on the Haar bands, a perceptual distance on one random frame."""

    averaged: tuple[str, ...] = ()

    def __init__(self, config: Config, clip: Clip) -> None:
        self.config = config
        self.clip = clip
        self.trained = nn.ModuleDict({"autoencoder": _autoencoder(config, clip)})
        distance = perceptual(
            config.perceptual, clip.channels, config.perceptual_weights, config.perceptual_sha256
        )
        self.frozen = nn.ModuleDict({"perceptual": distance})
        self.phases: tuple[Phase, ...] = (Phase("autoencoder", self.loss),)
        sides = (clip.height // config.patch, clip.width // config.patch)
        self.latent_shape: tuple[int, ...] = (config.latent_channels, clip.frames, *sides)

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        """w_p |dx| + w_w mean over bands of |dW| + w_f perceptual; each term is a mean."""
        video = batch.video
        output = self.trained["autoencoder"](video)
        frames = one_frame(context, "frame", output, video)
        logs = {
            **distances(video, output),
            "wavelet": bands_of(output - video, self.config.wavelet == "3d"),
            "perceptual": self.frozen["perceptual"](*frames),
        }
        total = (
            self.config.pixel_weight * logs["l1"]
            + self.config.wavelet_weight * logs["wavelet"]
            + self.config.perceptual_weight * logs["perceptual"]
        )
        return total, {name: value.detach() for name, value in logs.items()}
