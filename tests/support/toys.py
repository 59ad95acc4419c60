"""Small recipes, runs and helpers for tests; as `tests.support.toys` a recipe module too."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hvdm import config as configs
from hvdm.config import (
    CheckpointConfig,
    ClusterConfig,
    DataConfig,
    EngineConfig,
    LogConfig,
    OptimizerConfig,
    RunConfig,
)
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

SGD = OptimizerConfig("sgd", lr=0.02, momentum=0.9, weight_decay=0.0)
ADAMW = OptimizerConfig("adamw", lr=1e-3)
INLINE = ClusterConfig("inline")

AUTOENCODER: dict[str, Any] = {
    "patch": 8,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "head_dim": 8,
    "projection_depth": 1,
    "projection_heads": 2,
    "projection_head_dim": 8,
    "projection_hidden": 16,
    "conv_channels": [8, 16, 16, 16],
    "fusion_depth": 1,
    "perceptual": "untrained",
}
DENOISER: dict[str, Any] = {"width": 8, "multipliers": [1, 2], "blocks": 1, "sampling_steps": 4}

PAIR = {
    "width": 8, "multipliers": (1, 2), "over_time": (4,), "blocks": 1, "mapping": 1, "steps": 4,
    "critic_width": 4, "critic_layers": 2, "penalty_every": 3,
}  # fmt: skip
MODELS = {"hvdm.autoencoder": AUTOENCODER, "hvdm.diffusion": DENOISER, "wavediff.diffusion": PAIR}


def run_config(
    run: Path, data: Path, recipe: str = "tests.support.toys", **changes: Any
) -> RunConfig:
    model = MODELS.get(recipe, {})
    base = RunConfig(
        recipe=recipe,
        model=model,
        data=DataConfig(str(data), frames=4, height=16, width=16, lanes=8, window=8, threads=1),
        optimizer=SGD,
        engine=EngineConfig("local"),
        cluster=INLINE,
        batch=5,
        micro_batch=2,
        samples=configs.Samples(0),
        steps=3,
        run=str(run),
        checkpoint=CheckpointConfig(every=configs.Samples(10**9)),
        log=LogConfig(every=configs.Samples(1), tensorboard=False),
    )
    config = replace(base, **changes)
    config.check()
    return config


# Generator and critic with R1: two networks, each other's loss, a phase that is not always due


@dataclass(frozen=True)
class Config:
    width: int = 8
    r1: float = 0.1
    spoiled: tuple[int, ...] = ()  # draws whose loss is not finite
    noise_of_rank: bool = False


class Generator(nn.Module):
    def __init__(self, clip: Clip, width: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(clip.channels, width, 3, padding=1)
        self.last = nn.Conv3d(width, clip.channels, 3, padding=1)

    def forward(self, noise: Tensor) -> Tensor:
        return torch.tanh(self.last(torch.tanh(self.first(noise))))


class Critic(nn.Module):
    def __init__(self, clip: Clip, width: int) -> None:
        super().__init__()
        self.body = nn.Conv3d(clip.channels, width, 4, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, width)
        self.head = nn.Linear(width, 1)

    def forward(self, video: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.body(video))).mean((2, 3, 4))).squeeze(1)


class Adversarial:
    coder = None
    samples = {"clip": SampleKind("a clip")}

    def __init__(self, config: Config, clip: Clip) -> None:
        self.config, self.clip = config, clip
        self.trained = nn.ModuleDict(
            {"critic": Critic(clip, config.width), "generator": Generator(clip, config.width)}
        )
        self.frozen = nn.ModuleDict()
        self.averaged = ("generator",)
        self.phases = (
            Phase("critic", self.critic_loss),
            Phase("generator", self.generator_loss, when=lambda step: step % 2 == 0),
        )

    def fake(self, batch: Batch, context: Context) -> Tensor:
        return self.trained["generator"](context.randn(self.clip.shape, "latent"))

    def critic_loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        critic = self.trained["critic"]
        real = batch.pixels().requires_grad_()
        real_score = critic(real)
        (slope,) = torch.autograd.grad(real_score.sum(), real, create_graph=True)
        penalty = slope.square().sum((1, 2, 3, 4))
        fake_score = critic(self.fake(batch, context))
        soft = nn.functional.softplus
        loss = soft(-real_score) + soft(fake_score) + self.config.r1 * penalty
        return self.spoil(loss, batch), {"penalty": penalty}

    def generator_loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        score = self.trained["critic"](self.fake(batch, context))
        return nn.functional.softplus(-score), {}

    def spoil(self, loss: Tensor, batch: Batch) -> Tensor:
        spoiled = self.config.spoiled
        factor = torch.tensor([float("nan") if d in spoiled else 1.0 for d in batch.draws])
        return loss * factor

    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Tensor:
        return nets["generator"](noise.randn(self.clip.shape, "latent"))


def reads(config: Config, data: DataConfig) -> tuple[Field, ...]:
    return (video(data),)


def build(config: Config, given: Given) -> Recipe:
    return Adversarial(config, given.clip)
