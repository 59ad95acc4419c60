"""A small part that trains inside a network whose rest comes from a run below (adapter.yaml)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hvdm.config import DataConfig
from hvdm.data.fields import Field, video
from hvdm.recipe import Batch, Context, Given, Logs, Phase, Recipe, SampleKind

stages = ("base",)


@dataclass(frozen=True)
class Config:
    width: int = 4


class Adapted(nn.Module):
    def __init__(self, coder: nn.Module, pixels: int, width: int) -> None:
        super().__init__()
        self.encode = nn.Linear(pixels, width)
        self.decode = nn.Linear(width, pixels)
        self.load_state_dict(coder.state_dict())
        self.adapter = nn.Linear(width, width)

    def forward(self, x_bd: Tensor) -> Tensor:
        code = torch.tanh(self.encode(x_bd))
        return self.decode(code + self.adapter(code))


class Adapter:
    averaged = ("coder",)
    coder = None
    samples: Mapping[str, SampleKind] = {}  # nothing

    def __init__(self, config: Config, given: Given) -> None:
        self.config, self.shape = config, given.clip.shape
        below = given.stages["base"].trained["coder"]
        net = Adapted(below, torch.Size(self.shape).numel(), config.width)
        self.trained = nn.ModuleDict({"coder": net})
        self.frozen = nn.ModuleDict()
        self.phases = (Phase("coder", self.loss, part=("adapter.",)),)

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        image = batch.pixels().flatten(1)
        return (self.trained["coder"](image) - image).square().mean(1), {}


def reads(config: Config, data: DataConfig) -> tuple[Field, ...]:
    return (video(data),)


def build(config: Config, given: Given) -> Recipe:
    return Adapter(config, given)
