"""HVDM's first stage: hybrid triplane and wavelet autoencoder (arXiv 2402.13729)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from hvdm.config import DataConfig
from hvdm.data.fields import Field, video
from hvdm.errors import UserError
from hvdm.recipe import Batch, Clip, Coder, Context, Given, Logs, Phase, Recipe
from hvdm.recipes.hvdm import triplane
from hvdm.recipes.hvdm.networks import (
    Autoencoder,
    Decoder,
    Encoder,
    Sum,
    Wavelet,
    WaveletEncoder,
    joint,
)
from hvdm.recipes.hvdm.reconstruction import (
    ClipCoder,
    Reconstruction,
    bands_of,
    distances,
    one_frame,
)
from hvdm.recipes.hvdm.triplane import TriplaneConfig


@dataclass(frozen=True)
class Config(TriplaneConfig):
    """The defaults are the paper's size for 16x256x256 clips."""

    conv_channels: tuple[int, ...] = (64, 192, 384, 768)
    conv_time: Literal[1, 3] = 1
    conv_norm: Literal["instance", "group"] = "instance"
    branches: Literal["both", "triplane", "wavelet"] = "both"
    wavelet: Literal["3d", "2d"] = "3d"
    fusion: Literal["attention", "sum"] = "attention"
    fusion_depth: int = 2
    wavelet_weight: float = 4.0


def reads(config: Config, data: DataConfig) -> tuple[Field, ...]:
    return (video(data),)


def build(config: Config, given: Given) -> Recipe:
    """The recipe for clips of `given.clip`'s shape."""
    _check_model(config)
    _check_variant(config)
    triplane.check_clip(config.patch, given.clip)
    return AutoencoderRecipe(config, given.clip)


def _check_model(config: Config) -> None:
    triplane.check_patch(config.patch, config.head_dim)
    if 2 * _halvings(config) > len(config.conv_channels) + 2:
        raise UserError(
            f"model.conv_channels={list(config.conv_channels)}: patch {config.patch} needs at "
            f"least {2 * _halvings(config) - 2} of them, one pair of convolutions for each halving"
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


def _halvings(config: Config) -> int:
    """How often the wavelet branch halves space: the DWT does it once, the patch asks for log2."""
    return config.patch.bit_length() - 2


# Networks


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
    planes = None if config.branches == "wavelet" else triplane.branch(config, clip)
    wavelet = None if config.branches == "triplane" else _wavelet(config, clip)
    fusion: nn.Module | None = None
    if config.branches == "both":
        attending = config.fusion == "attention"
        fusion = (
            triplane.space_time(config, config.fusion_depth, cross=True) if attending else Sum()
        )
    return Encoder(planes, wavelet, fusion, nn.Linear(config.width, config.latent_channels))


def _autoencoder(config: Config, clip: Clip) -> Autoencoder:
    encoder = _encoder(config, clip)
    decoder = Decoder(config.latent_channels, config.width, triplane.pixels(config, clip))
    return Autoencoder(encoder, decoder, clip.frames if config.released else None)


class AutoencoderRecipe(Reconstruction):
    """L1 on pixels, L1 on the Haar bands, a perceptual distance on one random frame."""

    averaged: tuple[str, ...] = ()

    def __init__(self, config: Config, clip: Clip) -> None:
        self.config = config
        self.trained = nn.ModuleDict({"autoencoder": _autoencoder(config, clip)})
        self.frozen = nn.ModuleDict({"perceptual": triplane.distance(config, clip)})
        self.phases: tuple[Phase, ...] = (Phase("autoencoder", self.loss),)
        shape = (config.latent_channels, *triplane.axes(config, clip))
        self.coder: Coder | None = ClipCoder(clip, shape)

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        """w_p |dx| + w_w mean over bands of |dW| + w_f perceptual; each term is a mean."""
        video = batch.pixels()
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
