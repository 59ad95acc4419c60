"""WaveDiff (arXiv 2211.16152): diffusion of wavelet coefficients in a few calls of a generator.

A critic tells pairs of coefficients and their noisier successors from what the generator's answer
leads to. Without the transform it is DDGAN (arXiv 2112.07804).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdm.config import DataConfig
from hvdm.data.fields import Field, label, video
from hvdm.errors import UserError
from hvdm.ops.large_steps import large_steps
from hvdm.ops.wavelet import haar, inverse_haar
from hvdm.options import option
from hvdm.recipe import (
    Batch,
    Clip,
    Coder,
    Context,
    Given,
    Logs,
    Noise,
    Phase,
    Recipe,
    SampleKind,
    SampleRequest,
)
from hvdm.recipes.wavediff.discriminator import Discriminator
from hvdm.recipes.wavediff.generator import Generator, GeneratorShape
from hvdm.recipes.wavediff.layers import PLANE

BANDS = 4


@dataclass(frozen=True)
class Config:
    """The defaults are the paper's for CelebA-HQ at 256x256."""

    variant: Literal["figure", "released"] = "figure"
    space: Literal["wavelet", "pixels"] = "wavelet"
    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2, 2, 4)
    attention: tuple[int, ...] = (16,)
    blocks: int = 2
    mapping: int = 3
    drawn: int = 100
    folded: int = 1
    bottleneck: bool = True
    resampling: bool = True
    pyramid: bool = True
    steps: int = 2
    labels: int = 0
    adversarial: bool = True
    reconstruction: float = 1.0
    critic: Literal["small", "large"] = "large"
    critic_layers: int = 5
    critic_width: int = 64
    group: int = 4
    gradient_penalty: float = 2.0
    penalty_every: int = 10


@dataclass(frozen=True)
class Pictures:
    """What can be asked of a run that was told classes."""

    label: tuple[int, ...] = option(
        (), "the class of each picture in turn; all of them unless told"
    )


def reads(config: Config, data: DataConfig) -> Sequence[Field]:
    return [video(data), *([label(config.labels)] if config.labels else [])]


def build(config: Config, given: Given) -> Recipe:
    _check(config, given.clip)
    return WaveDiffusion(config, given.clip)


def _check(config: Config, clip: Clip) -> None:
    if clip.frames != 1:
        raise UserError(f"data.frames={clip.frames}: this model makes pictures; set data.frames=1")
    if clip.height != clip.width:
        raise UserError(f"data.height={clip.height} data.width={clip.width}: pictures are square")
    halvings = len(config.multipliers) - 1 + config.bottleneck
    unit = (2 if config.space == "wavelet" else 1) * config.folded * 2**halvings
    if clip.height % unit:
        raise UserError(
            f"data.height={clip.height}: {len(config.multipliers)} levels (model.multipliers) need "
            f"a multiple of {unit}"
        )
    for key in ("steps", "penalty_every", "group", "blocks", "drawn", "folded"):
        if getattr(config, key) < 1:
            raise UserError(f"model.{key}={getattr(config, key)} is below 1")


def _generator(config: Config, clip: Clip) -> Generator:
    in_bands = config.space == "wavelet"
    return Generator(
        GeneratorShape(
            channels=clip.channels * (BANDS if in_bands else 1),
            side=clip.height // (2 if in_bands else 1),
            width=config.width,
            multipliers=config.multipliers,
            attention=config.attention,
            bottleneck=config.bottleneck,
            resampling=config.resampling,
            pyramid=config.pyramid,
            blocks=config.blocks,
            drawn=config.drawn,
            mapping=config.mapping,
            folded=config.folded,
            labels=config.labels,
            released=config.variant == "released",
        )
    )


class WaveDiffusion:
    averaged: tuple[str, ...] = ("generator",)
    coder: Coder | None = None

    def __init__(self, config: Config, clip: Clip) -> None:
        self.config, self.clip = config, clip
        generator = _generator(config, clip)
        self.channels, self.side = generator.shape.channels, generator.shape.side
        self.trained = nn.ModuleDict({"generator": generator})
        self.frozen = nn.ModuleDict()
        self.steps = large_steps(config.steps)
        self.phases: tuple[Phase, ...] = (Phase("generator", self.generator_loss),)
        self.samples: Mapping[str, SampleKind] = {
            "images": SampleKind("pictures", Pictures, "images", self.label_of)
        }
        self.group = 1
        if config.adversarial:
            self.trained["critic"] = Discriminator(
                self.channels,
                config.critic_layers,
                config.critic == "small",
                config.group,
                config.labels,
                config.critic_width,
            )
            self.phases = (Phase("critic", self.critic_loss), *self.phases)
            self.group = config.group

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.channels, self.side, self.side)

    # What is diffused

    def coefficients(self, batch: Batch) -> Tensor:
        """`B C H W` in [-1, 1]: the bands of the pictures at half their size, or the pictures."""
        pictures = batch.pixels()[:, :, 0]
        if self.config.space == "pixels":
            return pictures
        return haar(pictures, PLANE).flatten(1, 2) / 2

    def pictures(self, y: Tensor) -> Tensor:
        """`B 3 H W` in [-1, 1], of coefficients."""
        if self.config.space == "wavelet":
            y = inverse_haar(2 * y.unflatten(1, (BANDS, -1)), PLANE)
        return y.clamp(-1, 1)

    # Losses

    def _drawn(self, batch: Batch, context: Context) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Clean coefficients, a step, and the noisy ones before and after it."""
        clean = self.coefficients(batch)
        t = context.randint(self.config.steps, "step").to(clean.device)
        before = self.steps.noisy(clean, t, context.randn(self.shape, "noise"))
        after = self.steps.noisier(before, t, context.randn(self.shape, "more noise"))
        return clean, t, before, after

    def _answer(
        self, after: Tensor, t: Tensor, label: Tensor | None, context: Context
    ) -> tuple[Tensor, Tensor]:
        """The generator's clean coefficients, and noisy ones that lie before `after`."""
        z = context.randn((self.config.drawn,), "style")
        clean = self.trained["generator"](after, t, z, label)
        return clean, self.steps.before(clean, after, t, context.randn(self.shape, "before"))

    def _label(self, batch: Batch) -> Tensor | None:
        return batch["label"] if self.config.labels else None

    def critic_loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        """Softplus of both scores; the penalty on the slope at real pairs, now and then."""
        config, critic, label = self.config, self.trained["critic"], self._label(batch)
        _, t, before, after = self._drawn(batch, context)
        with torch.no_grad():
            _, made = self._answer(after, t, label, context)
        # without gradients, as where operations are counted, there is no slope
        due = context.step % config.penalty_every == 0 and torch.is_grad_enabled()
        penalized = due and config.gradient_penalty > 0
        before = before.requires_grad_(penalized)
        real, fake = critic(before, after, t, label), critic(made, after, t, label)
        loss = functional.softplus(-real) + functional.softplus(fake)
        logs = {"real": real.detach(), "fake": fake.detach()}
        if not penalized:
            return loss, logs
        (slope,) = torch.autograd.grad(real.sum(), before, create_graph=True)
        penalty = slope.square().sum((1, 2, 3))
        return loss + config.gradient_penalty / 2 * penalty, logs

    def generator_loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        """How well the critic is deceived, and L1 to the clean coefficients."""
        label = self._label(batch)
        clean, t, _, after = self._drawn(batch, context)
        answer, made = self._answer(after, t, label, context)
        distance = (answer - clean).abs().mean((1, 2, 3))
        logs = {"reconstruction": distance.detach()}
        loss = self.config.reconstruction * distance
        if not self.config.adversarial:
            return loss, logs
        score = self.trained["critic"](made, after, t, label)
        return loss + functional.softplus(-score), logs

    # Sampling

    @torch.no_grad()
    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Tensor:
        """Pictures `B 3 H W`, in as many calls as there are steps."""
        asked = request.options or Pictures()
        label = self._asked(asked, noise)
        y = noise.randn(self.shape, "start")
        for step in reversed(range(self.config.steps)):
            t = torch.full((len(y),), step, device=y.device)
            z = noise.randn((self.config.drawn,), f"style {step}")
            clean = nets["generator"](y, t, z, label)
            y = self.steps.before(clean, y, t, noise.randn(self.shape, f"before {step}"))
            if request.progress:
                request.progress(1 - step / self.config.steps)
        return self.pictures(y)

    def _asked(self, asked: Pictures, noise: Noise) -> Tensor | None:
        """The class of each picture, by its number."""
        known = self.config.labels
        for one in asked.label:
            if not 0 <= one < known:
                told = f"knows labels 0 to {known - 1}" if known else "was told no labels"
                raise UserError(f"label={one}: this run {told}")
        if not known:
            return None
        return torch.tensor([self.label_of(asked, d) for d in noise.draws], device=noise.device)

    def label_of(self, asked: Pictures, draw: int) -> int | None:
        """The classes that were asked for in turn, or all of them."""
        labels = asked.label or tuple(range(self.config.labels))
        return labels[draw % len(labels)] if labels else None
