"""Images and two networks, each with a rate and betas of its own (two_nets.yaml)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hvdm.config import DataConfig
from hvdm.data.fields import Field, video
from hvdm.recipe import Batch, Context, Given, Logs, Phase, Recipe, SampleKind


@dataclass(frozen=True)
class Config:
    width: int = 4


class Coder(nn.Module):
    def __init__(self, pixels: int, width: int) -> None:
        super().__init__()
        self.encode = nn.Linear(pixels, width)
        self.decode = nn.Linear(width, pixels)

    def forward(self, x_bd: Tensor) -> Tensor:
        return self.decode(torch.tanh(self.encode(x_bd)))


class TwoNets:
    averaged = ("coder",)
    coder = None
    samples: Mapping[str, SampleKind] = {}  # nothing

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        self.config, self.shape = config, shape
        self.pixels = torch.Size(shape).numel()
        self.trained = nn.ModuleDict(
            {"coder": Coder(self.pixels, config.width), "judge": nn.Linear(self.pixels, 1)}
        )
        self.frozen = nn.ModuleDict()
        self.phases = (Phase("coder", self.loss), Phase("judge", self.judged))

    def error(self, image_bd: Tensor, context: Context) -> Tensor:
        kept = image_bd * context.keep((self.pixels,), 0.75, "dropped")
        return (self.trained["coder"](kept) - image_bd).square().mean(1)

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        return self.error(batch.pixels().flatten(1), context), {}

    def judged(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        image = batch.pixels().flatten(1)
        guess = self.trained["judge"](image).squeeze(1)
        return (guess - self.error(image, context).detach()).square(), {}


def reads(config: Config, data: DataConfig) -> tuple[Field, ...]:
    return (video(data),)


def build(config: Config, given: Given) -> Recipe:
    return TwoNets(config, given.clip.shape)
