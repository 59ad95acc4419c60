"""A sixth family, for a test: rectified flow on pixels. This file and its YAML are all of it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
    steps: int = 4
    spoiled: tuple[int, ...] = ()  # draws whose loss is not finite
    noise_by_rank: bool = False  # the error that the equality tests have to find


class Velocity(nn.Module):
    def __init__(self, clip: Clip, width: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(clip.channels + 1, width, 3, padding=1)
        self.last = nn.Conv3d(width, clip.channels, 3, padding=1)

    def forward(self, x_bcthw: Tensor, time_b: Tensor) -> Tensor:
        time = time_b.view(-1, 1, 1, 1, 1).expand(-1, 1, *x_bcthw.shape[2:])
        return self.last(torch.tanh(self.first(torch.cat([x_bcthw, time], 1))))


class Flow:
    coder = None
    samples = {"clip": SampleKind("a clip", steps=True)}

    def __init__(self, config: Config, clip: Clip) -> None:
        self.config, self.clip = config, clip
        self.trained = nn.ModuleDict({"velocity": Velocity(clip, config.width)})
        self.frozen = nn.ModuleDict()
        self.averaged = ("velocity",)
        self.phases = (Phase("velocity", self.loss),)

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        video = batch.pixels()
        noise = self.noise(context, video)
        time = context.uniform((), "time")
        at = time.view(-1, 1, 1, 1, 1)
        guess = self.trained["velocity"](at * video + (1 - at) * noise, time)
        loss = (guess - (video - noise)).square().mean((1, 2, 3, 4))
        spoiled = self.config.spoiled
        factor = [float("nan") if draw in spoiled else 1.0 for draw in batch.draws]
        return loss * torch.tensor(factor, device=loss.device), {}

    def noise(self, context: Context, video: Tensor) -> Tensor:
        if self.config.noise_by_rank:
            from hvdm import dist, rng

            generator = rng.generator(context.seed, dist.rank(), context.step)
            return torch.randn(video.shape, generator=generator).to(video)
        return context.randn(self.clip.shape, "noise")

    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Tensor:
        x = noise.randn(self.clip.shape, "start")
        steps = request.steps or self.config.steps
        for i in range(steps):
            x = x + nets["velocity"](x, torch.full((len(x),), i / steps).to(x)) / steps
        return x.clamp(-1, 1)


def reads(config: Config, data: DataConfig) -> tuple[Field, ...]:
    return (video(data),)


def build(config: Config, given: Given) -> Recipe:
    return Flow(config, given.clip)
