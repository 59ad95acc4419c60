"""A family whose loss couples the rows of a group: each is told from the mean of its four."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hvdm.config import DataConfig
from hvdm.data.fields import Field, video
from hvdm.recipe import Batch, Clip, Context, Given, Logs, Phase, Recipe


@dataclass(frozen=True)
class Config:
    width: int = 4


def reads(config: Config, data: DataConfig) -> tuple[Field, ...]:
    return (video(data),)


class Grouped:
    averaged: tuple[str, ...] = ()
    coder = None
    samples: dict[str, object] = {}
    group = 4

    def __init__(self, clip: Clip) -> None:
        self.trained = nn.ModuleDict({"body": nn.Linear(clip.channels, 2)})
        self.frozen = nn.ModuleDict()
        self.phases = (Phase("body", self.loss),)

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        features = self.trained["body"](batch.pixels().mean((2, 3, 4)))
        group = torch.tensor(batch.draws, device=features.device) // self.group
        together = (group[:, None] == group).to(features)
        mean = together @ features / together.sum(1, keepdim=True)
        return (1 - (features - mean).square().sum(1)).square(), {}


def build(config: Config, given: Given) -> Recipe:
    return Grouped(given.clip)
