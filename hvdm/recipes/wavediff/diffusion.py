"""WaveDiff (arXiv 2211.16152): diffusion of wavelet coefficients in a few calls of a generator.

A critic tells pairs of coefficients and their noisier successors from what the generator's answer
leads to. Without the transform it is DDGAN (arXiv 2112.07804).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdm.config import DataConfig
from hvdm.data.fields import Field, label, video
from hvdm.errors import UserError
from hvdm.ops.large_steps import large_steps
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
    SampleRequest,
)
from hvdm.recipes.wavediff.bands import Bands
from hvdm.recipes.wavediff.discriminator import CriticShape, Discriminator
from hvdm.recipes.wavediff.generation import Generation, kinds
from hvdm.recipes.wavediff.generator import Generator, GeneratorShape


@dataclass(frozen=True)
class Config:
    """The defaults are the paper's for CelebA-HQ at 256x256."""

    variant: Literal["figure", "released"] = "figure"
    space: Literal["wavelet", "pixels"] = "wavelet"
    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2, 2, 4)
    attention: tuple[int, ...] = (16,)
    over_time: tuple[int, ...] = (16, 8)
    blocks: int = 2
    mapping: int = 3
    drawn: int = 100
    folded: int = 1
    bottleneck: bool = True
    resampling: bool = True
    pyramid: bool = True
    steps: int = 2
    labels: int = 0
    before: int = 0
    conditional: float = 0.5
    adversarial: bool = True
    reconstruction: float = 1.0
    band_weights: tuple[float, ...] = ()
    critic: Literal["small", "large"] = "large"
    critic_layers: int = 5
    critic_width: int = 64
    group: int = 4
    gradient_penalty: float = 2.0
    penalty_every: int = 10


def reads(config: Config, data: DataConfig) -> Sequence[Field]:
    """Pictures or clips, with the clip before in front where the model is told it."""
    clip = video(data, config.before + data.frames)
    return [clip, *([label(config.labels)] if config.labels else [])]


def build(config: Config, given: Given) -> Recipe:
    bands = Bands(given.clip, config.space == "wavelet")
    _check_sizes(config, given.clip)
    _check_numbers(config, bands)
    return WaveDiffusion(config, bands)


def _check_sizes(config: Config, clip: Clip) -> None:
    if clip.height != clip.width:
        raise UserError(f"data.height={clip.height} data.width={clip.width}: pictures are square")
    halvings = len(config.multipliers) - 1 + config.bottleneck
    unit = (2 if config.space == "wavelet" else 1) * config.folded * 2**halvings
    if clip.height % unit:
        raise UserError(
            f"data.height={clip.height}: {len(config.multipliers)} levels (model.multipliers) need "
            f"a multiple of {unit}"
        )
    if clip.frames > 1 and clip.frames % 2 and config.space == "wavelet":
        raise UserError(f"data.frames={clip.frames}: bands of clips need an even number, or 1")
    if clip.frames > 1 and (config.folded > 1 or config.variant == "released"):
        raise UserError(
            "model.folded and model.variant=released are of pictures: set data.frames=1"
        )
    if config.before not in (0, clip.frames if clip.frames > 1 else 0):
        raise UserError(
            f"model.before={config.before}: the past is a clip too, of {clip.frames} frames; use "
            f"model.before={clip.frames}, or 0 to train without it (pictures have none)"
        )


def _check_numbers(config: Config, bands: Bands) -> None:
    for key in ("steps", "penalty_every", "group", "blocks", "drawn", "folded"):
        if getattr(config, key) < 1:
            raise UserError(f"model.{key}={getattr(config, key)} is below 1")
    if not 0 <= config.conditional <= 1:
        raise UserError(f"model.conditional={config.conditional}: it is a share, from 0 to 1")
    if config.band_weights and len(config.band_weights) != bands.count:
        raise UserError(
            f"model.band_weights has {len(config.band_weights)} numbers: {bands.count} bands need "
            "one each"
        )


def _generator(config: Config, bands: Bands) -> Generator:
    channels, *frames, side, _ = bands.shape
    return Generator(
        GeneratorShape(
            channels=channels,
            side=side,
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
            frames=sum(frames),
            over_time=config.over_time,
            past=config.before > 0,
        )
    )


def _critic(config: Config, bands: Bands) -> Discriminator:
    channels, *frames, _, _ = bands.shape
    return Discriminator(
        CriticShape(
            channels=channels,
            layers=config.critic_layers,
            small=config.critic == "small",
            group=config.group,
            labels=config.labels,
            width=config.critic_width,
            frames=sum(frames),
            past=config.before > 0,
        )
    )


@dataclass(frozen=True)
class Drawn:
    """Clean coefficients, a step, the noisy ones before and after it, and what a row is told."""

    clean: Tensor
    t: Tensor
    before: Tensor
    after: Tensor
    told: tuple[Tensor | None, Tensor | None]


class WaveDiffusion:
    averaged: tuple[str, ...] = ("generator",)
    coder: Coder | None = None

    def __init__(self, config: Config, bands: Bands) -> None:
        self.config, self.bands = config, bands
        self.samples = kinds(bands, config.labels, config.before > 0)
        self.trained = nn.ModuleDict({"generator": _generator(config, bands)})
        self.frozen = nn.ModuleDict()
        self.steps = large_steps(config.steps)
        self.phases: tuple[Phase, ...] = (Phase("generator", self.generator_loss),)
        self.group = 1
        if config.adversarial:
            self.trained["critic"] = _critic(config, bands)
            self.phases = (Phase("critic", self.critic_loss), *self.phases)
            self.group = config.group

    @property
    def labels(self) -> int:
        return self.config.labels

    @property
    def drawn(self) -> int:
        return self.config.drawn

    # Losses

    def _drawn(self, batch: Batch, context: Context) -> Drawn:
        video, shape = batch.pixels(), self.bands.shape
        first = self.config.before
        clean = self.bands.of(video[:, :, first:])
        t = context.randint(self.config.steps, "step").to(clean.device)
        before = self.steps.noisy(clean, t, context.randn(shape, "noise"))
        after = self.steps.noisier(before, t, context.randn(shape, "more noise"))
        past = self._past(video[:, :, :first], context) if first else None
        told = (batch["label"] if self.config.labels else None, past)
        return Drawn(clean, t, before, after, told)

    def _past(self, video: Tensor, context: Context) -> Tensor:
        """Coefficients of the clip before, zeros for the rows that are not told it."""
        told = context.uniform((), "told").to(video.device) < self.config.conditional
        past = self.bands.of(video)
        return torch.where(told.reshape(-1, *[1] * (past.ndim - 1)), past, torch.zeros_like(past))

    def _answer(self, drawn: Drawn, context: Context) -> tuple[Tensor, Tensor]:
        """The generator's clean coefficients, and noisy ones that lie before `after`."""
        z = context.randn((self.config.drawn,), "style")
        clean = self.trained["generator"](drawn.after, drawn.t, z, *drawn.told)
        fresh = context.randn(self.bands.shape, "before")
        return clean, self.steps.before(clean, drawn.after, drawn.t, fresh)

    def critic_loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        """Softplus of both scores; the penalty on the slope at real pairs, now and then."""
        config, critic, drawn = self.config, self.trained["critic"], self._drawn(batch, context)
        with torch.no_grad():
            _, made = self._answer(drawn, context)
        # without gradients, as where operations are counted, there is no slope
        due = context.step % config.penalty_every == 0 and torch.is_grad_enabled()
        penalized = due and config.gradient_penalty > 0
        before = drawn.before.requires_grad_(penalized)
        given = (drawn.after, drawn.t, *drawn.told)
        real, fake = critic(before, *given), critic(made, *given)
        loss = functional.softplus(-real) + functional.softplus(fake)
        logs = {"real": real.detach(), "fake": fake.detach()}
        if not penalized:
            return loss, logs
        (slope,) = torch.autograd.grad(real.sum(), before, create_graph=True)
        penalty = slope.square().sum(tuple(range(1, slope.ndim)))
        return loss + config.gradient_penalty / 2 * penalty, logs

    def generator_loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        """How well the critic is deceived, and L1 to the clean coefficients."""
        drawn = self._drawn(batch, context)
        answer, made = self._answer(drawn, context)
        distance = self._distance(answer, drawn.clean)
        logs = {"reconstruction": distance.detach()}
        loss = self.config.reconstruction * distance
        if not self.config.adversarial:
            return loss, logs
        score = self.trained["critic"](made, drawn.after, drawn.t, *drawn.told)
        return loss + functional.softplus(-score), logs

    def _distance(self, answer: Tensor, clean: Tensor) -> Tensor:
        """L1 of each row, each band at its weight where there are some."""
        apart, weights = (answer - clean).abs(), self.config.band_weights
        if weights:
            of_bands = apart.new_tensor(weights).repeat_interleave(self.bands.clip.channels)
            apart = apart * of_bands.reshape(-1, *[1] * (apart.ndim - 2))
        return apart.mean(tuple(range(1, apart.ndim)))

    # Sampling

    @torch.no_grad()
    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Tensor:
        """Pictures `B 3 H W` or videos `B 3 T H W`, in as many calls as there are steps."""
        asked = request.options or self.samples[request.what].options()
        return Generation(self, nets, asked, noise, request.progress).made()
