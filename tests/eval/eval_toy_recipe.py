"""A family with one weight: enough to be built, saved, opened, and measured."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from data_tools.synthetic import digits
from data_tools.synthetic.rendering import Rendered
from hvdm.config import DataConfig
from hvdm.data.fields import Field, video
from hvdm.errors import UserError
from hvdm.recipe import (
    Batch,
    Clip,
    Coder,
    Given,
    Noise,
    Phase,
    Recipe,
    SampleKind,
    SampleRequest,
    to_model,
)


@dataclass(frozen=True)
class Config:
    kind: Literal["autoencoder", "generator", "copier", "writer"] = "autoencoder"
    scale: float = 1.0
    averaged: bool = False


def reads(config: Config, data: DataConfig) -> tuple[Field, ...]:
    return (video(data),)


def build(config: Config, given: Given) -> Recipe:
    kinds = {
        "autoencoder": ToyAutoencoder,
        "generator": ToyGenerator,
        "copier": ToyCopier,
        "writer": ToyWriter,
    }
    return kinds[config.kind](config, given.clip)


class Scale(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value]))


class ToyGenerator:
    """Coarse noise that drifts; its scale says how far the colours spread."""

    averaged: tuple[str, ...]
    coder: Coder | None = None
    samples: dict[str, SampleKind] = {"clip": SampleKind("a clip", steps=True)}

    def __init__(self, config: Config, clip: Clip) -> None:
        self.clip = clip
        self.averaged = ("net",) if config.averaged else ()
        self.trained = nn.ModuleDict({"net": Scale(config.scale)})
        self.frozen = nn.ModuleDict()
        self.phases: tuple[Phase, ...] = ()

    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Tensor:
        coarse = noise.randn((self.clip.channels, 1, 4, 4), "start") * nets["net"].value
        size = (self.clip.frames, self.clip.height, self.clip.width)
        return functional.interpolate(coarse, size, mode="trilinear").tanh()


class ToyWriter(ToyGenerator):
    """Digits that were never learned from, moving as real ones do, told a class that is theirs."""

    seed, split = 1, "test"

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__(config, clip)
        self.samples = {"clip": SampleKind("a clip", label=lambda options, d: self.drawn(d).label)}

    def drawn(self, draw: int) -> Rendered:
        size = (self.clip.frames, self.clip.height, self.clip.width)
        return digits.clip(self.seed, self.split, draw, *size)

    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Tensor:
        return to_model(torch.stack([torch.from_numpy(self.drawn(d).video) for d in noise.draws]))


class ToyCopier(ToyWriter):
    """The clips that were learned from, again."""

    seed, split = 0, "train"


class EveryOther:
    latent_shape: tuple[int, ...] = (3, 1, 1, 1)

    def encode(self, nets: nn.ModuleDict, batch: Batch) -> Tensor:
        return functional.avg_pool3d(batch.pixels(), (1, 2, 2))

    def decode(self, nets: nn.ModuleDict, latent: Tensor) -> dict[str, Tensor]:
        return {"video": functional.interpolate(latent, scale_factor=(1, 2, 2)) * nets["net"].value}


class ToyAutoencoder(ToyGenerator):
    """Every other pixel."""

    samples: dict[str, SampleKind] = {}

    @property
    def coder(self) -> Coder:
        return EveryOther()

    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Tensor:
        raise UserError("an autoencoder does not sample")
