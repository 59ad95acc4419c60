"""The toys' recipe, with an error in one step; as `tests.support.breaking` a recipe module."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hvdm import dist
from hvdm.recipe import Batch, Context, Given, Logs, Recipe
from tests.support import toys

reads = toys.reads


@dataclass(frozen=True)
class Config(toys.Config):
    step: int = 2
    marks: str = ""  # a folder; it gets a file for each time that the error was raised
    error: str = "memory"


class Breaking(toys.Adversarial):
    config: Config

    def critic_loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        if context.step == self.config.step and dist.rank() == dist.world() - 1:
            folder = Path(self.config.marks)
            (folder / str(len(list(folder.iterdir())))).touch()
            fail(self.config.error)
        return super().critic_loss(batch, context)


def fail(how: str) -> None:
    if how == "memory":
        torch.empty(2**50)
    raise ValueError(how)


def build(config: Config, given: Given) -> Recipe:
    return Breaking(config, given.clip)
