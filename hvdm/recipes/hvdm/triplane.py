"""What HVDM's and PVDM's autoencoders share: sizes, their checks, and the way to three planes."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from hvdm.errors import UserError
from hvdm.nets.perceptual import Perceptual, perceptual
from hvdm.recipe import Clip
from hvdm.recipes.hvdm.networks import Patchify, Pixels, Triplane, TriplaneBranch
from hvdm.recipes.hvdm.transformer import (
    AxisProjection,
    Heads,
    ProjectionLayer,
    SpaceTimeTransformer,
)


@dataclass(frozen=True)
class TriplaneConfig:
    """The defaults are both papers' size for 16x256x256 clips."""

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
    latent_channels: int = 4
    pixel_weight: float = 4.0
    perceptual_weight: float = 4.0
    perceptual: Perceptual = "none"
    perceptual_weights: tuple[str, ...] = ()
    perceptual_sha256: tuple[str, ...] = ()
    activation_checkpointing: bool = False

    @property
    def released(self) -> bool:
        return self.variant == "released"


def check_patch(patch: int, head_dim: int) -> None:
    if patch not in (2, 4, 8, 16):
        raise UserError(f"model.patch={patch}: choose from: 2, 4, 8, 16")
    if head_dim % 4:
        raise UserError(
            f"model.head_dim={head_dim}: rotary embedding over height and width needs a "
            "multiple of 4"
        )


def check_clip(patch: int, clip: Clip, even: bool = True) -> None:
    if even and (clip.frames < 2 or clip.frames % 2):
        raise UserError(
            f"data.frames={clip.frames}: the wavelet transform pairs frames, so it must be even"
        )
    for name, size in (("height", clip.height), ("width", clip.width)):
        if size < patch or size % patch:
            raise UserError(f"data.{name}={size}: it must be a multiple of model.patch={patch}")


def axes(config: TriplaneConfig, clip: Clip) -> tuple[int, int, int]:
    """T, H and W of the clip's tokens."""
    return clip.frames, clip.height // config.patch, clip.width // config.patch


def space_time(config: TriplaneConfig, depth: int, cross: bool = False) -> SpaceTimeTransformer:
    size = Heads(config.width, config.heads, config.head_dim)
    return SpaceTimeTransformer(
        size, depth, config.activation_checkpointing, config.released, cross
    )


def branch(config: TriplaneConfig, clip: Clip) -> TriplaneBranch:
    return TriplaneBranch(
        Patchify(config.patch, clip.channels, config.width),
        space_time(config, config.depth),
        Triplane(*(_projection(config, length) for length in axes(config, clip))),
    )


def _projection(config: TriplaneConfig, length: int) -> AxisProjection:
    size = Heads(config.width, config.projection_heads, config.projection_head_dim)
    layers = [
        ProjectionLayer(size, config.projection_hidden) for _ in range(config.projection_depth)
    ]
    return AxisProjection(
        length, config.width, layers, config.activation_checkpointing, config.released
    )


def pixels(config: TriplaneConfig, clip: Clip) -> Pixels:
    return Pixels(config.width, space_time(config, config.depth), config.patch, clip.channels)


def distance(config: TriplaneConfig, clip: Clip) -> nn.Module:
    """The frozen network that compares frames."""
    return perceptual(
        config.perceptual, clip.channels, config.perceptual_weights, config.perceptual_sha256
    )
