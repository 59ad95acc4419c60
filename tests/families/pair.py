"""A student of two runs below (pair.yaml)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from hvdm.config import DataConfig
from hvdm.data.fields import Field, video
from hvdm.recipe import Batch, Context, Given, Logs, Phase, Recipe, SampleKind

stages = ("teacher", "other")


@dataclass(frozen=True)
class Config:
    share: float = 0.5


class Student:
    averaged = ()
    coder = None
    samples: Mapping[str, SampleKind] = {}  # nothing

    def __init__(self, config: Config, given: Given) -> None:
        self.config, self.shape = config, given.clip.shape
        width = given.clip.channels * given.clip.height * given.clip.width
        self.trained = nn.ModuleDict({"student": nn.Linear(width, width)})
        self.frozen = nn.ModuleDict({name: given.stages[name].trained["coder"] for name in stages})
        self.phases = (Phase("student", self.loss),)

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        image = batch.pixels().flatten(1)
        taught = self.config.share * self.frozen["teacher"](image)
        taught = taught + (1 - self.config.share) * self.frozen["other"](image)
        return (self.trained["student"](image) - taught).square().mean(1), {}


def reads(config: Config, data: DataConfig) -> tuple[Field, ...]:
    return (video(data),)


def build(config: Config, given: Given) -> Recipe:
    return Student(config, given)
