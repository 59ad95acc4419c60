"""A family with kinds of samples of its own, for a test. This file and its YAML are all of it."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdm.config import DataConfig
from hvdm.data.fields import Field, video
from hvdm.media.mesh import Mesh
from hvdm.options import option
from hvdm.recipe import (
    Batch,
    Clip,
    Context,
    Given,
    Logs,
    Noise,
    Phase,
    Recipe,
    SampleKind,
    SampleRequest,
)


@dataclass(frozen=True)
class Config:
    spread: float = 1.0


@dataclass(frozen=True)
class GridOptions:
    tone: Literal["warm", "cold"] = option("warm", "which colours")
    contrast: float = option(1.0, "how far they spread")


class Colours:
    """Learns one colour; draws coarse pictures around it, and tetrahedra of it."""

    coder = None
    averaged = ()
    samples = {
        "grid": SampleKind("pictures of few colours", GridOptions, "images"),
        "mesh": SampleKind("a tetrahedron", medium="mesh"),
        "page": SampleKind("a page that names the colour", medium="page"),
        "depth": SampleKind("a slope", medium="depth"),
        "spectrum": SampleKind("swings of noise", medium="spectrum"),
    }

    def __init__(self, config: Config, clip: Clip) -> None:
        self.config, self.clip = config, clip
        self.trained = nn.ModuleDict({"colour": nn.Linear(1, 3)})
        self.frozen = nn.ModuleDict()
        self.phases = (Phase("colour", self.loss),)

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        mean = batch.pixels().mean((2, 3, 4))
        guess = self.trained["colour"](torch.ones_like(mean[:, :1]))
        return (guess - mean).square().mean(1), {}

    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Any:
        draw = {"grid": self.grid, "mesh": self.mesh, "page": self.page}
        draw |= {"depth": self.depth, "spectrum": self.spectrum}
        options = request.options or GridOptions()
        return draw[request.what](options, noise, nets["colour"](torch.ones(1, 1)).tanh())

    def grid(self, options: GridOptions, noise: Noise, colour: Tensor) -> Tensor:
        coarse = noise.randn((3, 4, 4), "start") * self.config.spread * options.contrast
        sign = 1 if options.tone == "warm" else -1
        size = (self.clip.height, self.clip.width)
        return functional.interpolate(coarse + sign * colour[..., None, None], size).tanh()

    def mesh(self, options: object, noise: Noise, colour: Tensor) -> list[Mesh]:
        faces = torch.tensor([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
        own = ((colour + 1) * 127).to(torch.uint8).expand(4, 3)
        return [Mesh(vertices, faces, own) for vertices in noise.randn((4, 3), "vertices")]

    def page(self, options: object, noise: Noise, colour: Tensor) -> list[str]:
        return [f"<p>{draw}: {colour.tolist()}</p>" for draw in noise.draws]

    def depth(self, options: object, noise: Noise, colour: Tensor) -> Tensor:
        return noise.uniform((1, 1), "far") + torch.linspace(0, 1, self.clip.width).expand(
            len(noise.draws), self.clip.height, -1
        )

    def spectrum(self, options: object, noise: Noise, colour: Tensor) -> Tensor:
        parts = noise.randn((2, 5, 2, self.clip.height, self.clip.width), "swings")
        return torch.complex(parts[:, 0], parts[:, 1])


def reads(config: Config, data: DataConfig) -> tuple[Field, ...]:
    return (video(data),)


def build(config: Config, given: Given) -> Recipe:
    return Colours(config, given.clip)
