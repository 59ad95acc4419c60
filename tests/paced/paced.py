"""A small family that waits where a test wants it to: paced by files, not by time."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hvdm import dist
from hvdm.config import DataConfig
from hvdm.data.fields import Field, video
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
    width: int = 8
    holds: str = ""  # a folder; while it has a file named like a step, that step does not begin


class Held:
    """Regression of noise, with a step that can be held."""

    coder = None
    samples = {"clip": SampleKind("a clip")}

    def __init__(self, config: Config, clip: Clip) -> None:
        self.config, self.clip = config, clip
        body = nn.Sequential(
            nn.Conv3d(clip.channels, config.width, 3, padding=1),
            nn.Tanh(),
            nn.Conv3d(config.width, clip.channels, 3, padding=1),
        )
        self.trained = nn.ModuleDict({"body": body})
        self.frozen = nn.ModuleDict()
        self.averaged = ("body",)
        self.phases = (Phase("body", self.loss),)

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        if self.config.holds and dist.is_main():
            hold(Path(self.config.holds), context.step + 1)
        noise = context.randn(self.clip.shape, "noise")
        guess = self.trained["body"](batch.pixels() + noise)
        return (guess - batch.pixels()).square().mean((1, 2, 3, 4)), {}

    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Tensor:
        return torch.tanh(nets["body"](noise.randn(self.clip.shape, "start")))


def hold(folder: Path, step: int) -> None:
    gate = folder / str(step)
    if gate.exists():
        (folder / f"{step}.reached").touch()
    while gate.exists():
        time.sleep(0.01)


def reads(config: Config, data: DataConfig) -> tuple[Field, ...]:
    return (video(data),)


def build(config: Config, given: Given) -> Recipe:
    return Held(config, given.clip)
