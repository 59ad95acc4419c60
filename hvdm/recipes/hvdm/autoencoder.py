"""HVDM's first stage: hybrid triplane and wavelet autoencoder (arXiv 2402.13729)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from hvdm.errors import UserError
from hvdm.nets.perceptual import perceptual
from hvdm.ops.wavelet import haar3d
from hvdm.recipe import Batch, Clip, Context, Given, Logs, Noise, Phase, Recipe, SampleRequest
from hvdm.recipes.hvdm.networks import (
    Autoencoder,
    AxisProjection,
    Decoder,
    Encoder,
    Patchify,
    ProjectionLayer,
    SpaceTimeTransformer,
    Triplane,
    Wavelet,
)


@dataclass(frozen=True)
class Config:
    """The defaults are the paper's size for 16x256x256 clips."""

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
    fusion_depth: int = 2
    latent_channels: int = 4
    pixel_weight: float = 4.0
    wavelet_weight: float = 4.0
    perceptual_weight: float = 4.0
    perceptual: Literal["none", "untrained"] = "none"
    activation_checkpointing: bool = False


def build(config: Config, given: Given) -> Recipe:
    """The recipe for clips of `given.clip`'s shape."""
    _check_model(config)
    _check_clip(config.patch, given.clip)
    return AutoencoderRecipe(config, given.clip)


def _check_model(config: Config) -> None:
    if config.patch not in (2, 4, 8, 16):
        raise UserError(f"model.patch={config.patch}: choose from: 2, 4, 8, 16")
    if config.head_dim % 4:
        raise UserError(
            f"model.head_dim={config.head_dim}: rotary embedding over height and width needs a "
            "multiple of 4"
        )
    if 2 * _halvings(config) > len(config.conv_channels) + 2:
        raise UserError(
            f"model.conv_channels={list(config.conv_channels)}: patch {config.patch} needs at "
            f"least {2 * _halvings(config) - 2} of them, one pair of convolutions for each halving"
        )


def _check_clip(patch: int, clip: Clip) -> None:
    if clip.frames < 2 or clip.frames % 2:
        raise UserError(
            f"data.frames={clip.frames}: the wavelet transform pairs frames, so it must be even"
        )
    for name, size in (("height", clip.height), ("width", clip.width)):
        if size < patch or size % patch:
            raise UserError(f"data.{name}={size}: it must be a multiple of model.patch={patch}")


def _halvings(config: Config) -> int:
    """How often the wavelet branch halves space: the DWT does it once, the patch asks for log2."""
    return config.patch.bit_length() - 2


def _transformer(config: Config, depth: int) -> SpaceTimeTransformer:
    return SpaceTimeTransformer(
        config.width, depth, config.heads, config.head_dim, config.activation_checkpointing
    )


def _projection(config: Config, length: int) -> AxisProjection:
    size = (config.projection_heads, config.projection_head_dim, config.projection_hidden)
    layers: list[nn.Module] = [
        ProjectionLayer(config.width, *size) for _ in range(config.projection_depth)
    ]
    return AxisProjection(length, config.width, layers, config.activation_checkpointing)


def _encoder(config: Config, clip: Clip) -> Encoder:
    axes = (clip.frames, clip.height // config.patch, clip.width // config.patch)
    return Encoder(
        Patchify(config.patch, clip.channels, config.width),
        _transformer(config, config.depth),
        Triplane(*(_projection(config, length) for length in axes)),
        Wavelet(clip.channels, config.conv_channels, config.width, _halvings(config)),
        _transformer(config, config.fusion_depth),
        nn.Linear(config.width, config.latent_channels),
    )


def _decoder(config: Config, clip: Clip) -> Decoder:
    backbone = _transformer(config, config.depth)
    return Decoder(config.latent_channels, config.width, backbone, config.patch, clip.channels)


class AutoencoderRecipe:
    """L1 on pixels, L1 on the eight Haar bands, a perceptual distance on one random frame."""

    averaged: tuple[str, ...] = ()

    def __init__(self, config: Config, clip: Clip) -> None:
        self.config = config
        self.trained = nn.ModuleDict(
            {"autoencoder": Autoencoder(_encoder(config, clip), _decoder(config, clip))}
        )
        self.frozen = nn.ModuleDict({"perceptual": perceptual(config.perceptual, clip.channels)})
        self.phases: tuple[Phase, ...] = (Phase("autoencoder", self.loss),)
        sides = (clip.height // config.patch, clip.width // config.patch)
        self.latent_shape: tuple[int, ...] = (config.latent_channels, clip.frames, *sides)

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        """w_p |dx| + w_w/8 sum over bands of |dW| + w_f perceptual; each term is a mean."""
        video = batch.video
        output = self.trained["autoencoder"](video)
        frame = context.randint(video.shape[2], "frame")
        logs = {**_distances(video, output), "perceptual": self._perceptual(video, output, frame)}
        total = (
            self.config.pixel_weight * logs["l1"]
            + self.config.wavelet_weight * logs["wavelet"]
            + self.config.perceptual_weight * logs["perceptual"]
        )
        return total, {name: value.detach() for name, value in logs.items()}

    def _perceptual(self, video: Tensor, output: Tensor, frame: Tensor) -> Tensor:
        rows = torch.arange(len(video), device=video.device)
        distance: Tensor = self.frozen["perceptual"](output[rows, :, frame], video[rows, :, frame])
        return distance

    def encode(self, nets: nn.ModuleDict, video: Tensor) -> Tensor:
        """`B C T H W` -> `B E T H/p W/p` in (-1, 1)."""
        latent: Tensor = _of(nets).encoder(video)
        return latent

    def decode(self, nets: nn.ModuleDict, latent: Tensor) -> Tensor:
        """`B E T H/p W/p` -> `B C T H W` in (-1, 1)."""
        video: Tensor = _of(nets).decoder(latent)
        return video

    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Tensor:
        raise UserError(
            "an autoencoder does not sample: reconstruct with it (protocol=reconstruction), or "
            "train a diffusion model on top (first_stage=RUN) and sample that"
        )


def _of(nets: nn.ModuleDict) -> Autoencoder:
    net = nets["autoencoder"]
    assert isinstance(net, Autoencoder)
    return net


def _distances(video: Tensor, output: Tensor) -> Mapping[str, Tensor]:
    """One value per sample. The DWT is linear, so the bands' differences are one transform."""
    error = output - video
    mse = error.detach().square().mean((1, 2, 3, 4)) / 4  # of pixels in [0, 1]
    return {
        "l1": error.abs().mean((1, 2, 3, 4)),
        "wavelet": haar3d(error).abs().mean((1, 2, 3, 4, 5)),
        "psnr": -10 * mse.clamp_min(1e-10).log10(),
    }
