"""Frame diffusion (arXiv 2410.20158, section 4): the image is the last frame of a pseudo video.

Frames are made in a window that moves: the first `context` ones jointly, each later one from the
`context` before it. With one frame it is improved diffusion's model of images.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hvdm.config import DataConfig
from hvdm.data.fields import Field, video
from hvdm.errors import UserError
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
from hvdm.recipes.pseudo_video.frames import Ladder, check_ladder
from hvdm.recipes.pseudo_video.process import Process, Sampler, Schedule, Variance
from hvdm.recipes.pseudo_video.unet import Slots, UNet, UNetShape

FEWEST_STEPS = 40


@dataclass(frozen=True)
class Config(Ladder):
    """The defaults are the paper's for CIFAR-10."""

    variant: Literal["figure", "released"] = "figure"
    context: int = 2
    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    attention: tuple[int, ...] = (16, 8)
    blocks: int = 2
    heads: int = 4
    steps: int = 1000
    schedule: Schedule = "linear"
    variance: Variance = "large"
    sampler: Sampler = "ddpm"
    sampling_steps: int = 1000
    eta: float = 0.0


@dataclass(frozen=True)
class Frames:
    """How they are sampled."""

    sampler: Sampler | None = option(None, "default the run's")
    eta: float | None = option(None, "of ddim: 1 is ancestral, 0 deterministic; default the run's")


def reads(config: Config, data: DataConfig) -> Sequence[Field]:
    return [video(data)]


def build(config: Config, given: Given) -> Recipe:
    _check(config, given.clip)
    return FrameDiffusion(config, given.clip)


def _check(config: Config, clip: Clip) -> None:
    check_images(clip)
    check_ladder(config, clip.height, clip.width)
    check_levels(config.multipliers, config.width, config.heads, clip)
    if config.frames > 1 and not 1 <= config.context < config.frames:
        raise UserError(
            f"model.context={config.context}: expected at least 1 and fewer than "
            f"model.frames={config.frames}"
        )
    if config.frames > 1 and config.variance == "learned":
        raise UserError("model.variance=learned is for images alone; set model.frames=1")
    check_least(config, ("steps", "blocks"))
    if config.steps == 1 and config.variance == "learned":
        raise UserError("model.steps=1: a learned variance lies between those of two steps")
    if config.schedule == "linear" and config.steps < FEWEST_STEPS:
        raise UserError(
            f"model.steps={config.steps}: betas of schedule=linear would reach 1; train with "
            f"{FEWEST_STEPS} or more"
        )


def check_least(config: object, keys: Iterable[str], least: int = 1) -> None:
    for key in keys:
        if getattr(config, key) < least:
            raise UserError(f"model.{key}={getattr(config, key)} is below {least}")


def check_levels(multipliers: Sequence[int], width: int, heads: int, clip: Clip) -> None:
    """Of a U-Net."""
    if not multipliers or min(multipliers) < 1 or min(width, heads) < 1:
        raise UserError(
            f"model.width={width} model.heads={heads} model.multipliers={list(multipliers)}: "
            "expected 1 or more of each, for one level or more"
        )
    if odd := [width * by for by in multipliers if width * by % heads]:
        raise UserError(f"model.heads={heads} do not divide {odd[0]}, a level's width")
    unit = 2 ** (len(multipliers) - 1)
    if clip.height % unit:
        raise UserError(
            f"data.height={clip.height}: {len(multipliers)} levels (model.multipliers) need a "
            f"multiple of {unit}"
        )


def check_images(clip: Clip) -> None:
    if clip.frames != 1:
        raise UserError(
            f"data.frames={clip.frames}: pseudo videos are made of images; set data.frames=1, and "
            "model.frames to the number of frames that lead to each"
        )
    if clip.height != clip.width:
        raise UserError(f"data.height={clip.height} data.width={clip.width}: images are square")


def previews(config: Config, batch: Batch, noise: Noise) -> Tensor:
    """What it makes of rows: `B C T H W`."""
    return config.made(batch.pixels()[:, :, 0], noise)


class FrameDiffusion:
    averaged: tuple[str, ...] = ("denoiser",)
    coder: Coder | None = None
    samples: Mapping[str, SampleKind] = {
        "images": SampleKind("images, each the last frame", Frames, "images", steps=True),
        "frames": SampleKind("the frames that lead to them", Frames, steps=True),
    }

    def __init__(self, config: Config, clip: Clip) -> None:
        self.config, self.clip = config, clip
        self.frame = (clip.channels, clip.height, clip.width)
        self.windows = 1 if config.frames == 1 else 1 + config.frames - config.context
        self.first = config.frames if config.frames == 1 else config.context
        self.process = Process(config.steps, config.schedule, config.variance)
        self.trained = nn.ModuleDict({"denoiser": UNet(_shape(config, clip))})
        self.frozen = nn.ModuleDict()
        self.phases: tuple[Phase, ...] = (Phase("denoiser", self.loss),)

    # Losses

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        """Of the frames of one window that are to be made, their mean."""
        images = batch.pixels()[:, :, 0]
        frames = self.config.made(images, context).transpose(1, 2)
        window = context.randint(self.windows, "window").to(images.device)
        places, observed, used = self._window(window)
        rows = torch.arange(len(frames), device=frames.device)[:, None]
        clean = frames[rows, places] * _over(used, frames)
        t = context.randint(self.config.steps, "step").to(images.device)
        noise = context.randn((places.shape[1], *self.frame), "noise")
        noisy = torch.where(_over(observed, frames) > 0, clean, self.process.noisy(clean, t, noise))
        said = self._said(self.trained, noisy, self.process.clock(t), observed, Slots(places, used))
        each = self.process.losses(said, clean, noisy, noise, t).flatten(2).mean(2)
        made = (used & ~observed).to(each)
        return (each * made).sum(1) / made.sum(1), {}

    def _window(self, window: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`B` -> `B K` each: places, whether they are observed, and whether they are in use.

        The first window has the first frames, none observed; the others one more than is observed.
        """
        if self.windows == 1:
            places = torch.zeros(len(window), self.first, dtype=torch.long, device=window.device)
            return places, places > 0, places == 0
        slots = torch.arange(self.first + 1, device=window.device)
        begin = (window == 0)[:, None]
        places = (window[:, None] - 1).clamp_min(0) + slots
        last = slots == self.first
        return places, ~begin & ~last, ~(begin & last)

    def _said(
        self, nets: nn.ModuleDict, frames: Tensor, t: Tensor, observed: Tensor, slots: Slots
    ) -> Tensor:
        net = nets["denoiser"]
        if self.config.frames == 1:
            out: Tensor = net(frames[:, 0], t)[:, None]
            return out
        made: Tensor = net(frames, t, observed, slots)
        return made

    # Sampling

    @torch.no_grad()
    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Tensor:
        """The last frames `B C H W`, or all `B C T H W`; steps of each window in turn."""
        video: list[Tensor] = []
        for window in range(self.windows):
            video += self._made(nets, video, window, request, noise)
            if request.progress:
                request.progress((window + 1) / self.windows)
        frames = torch.stack(video, 2).clamp(-1, 1)
        return frames if request.what == "frames" else frames[:, :, -1]

    def _made(
        self,
        nets: nn.ModuleDict,
        before: list[Tensor],
        window: int,
        request: SampleRequest,
        noise: Noise,
    ) -> Sequence[Tensor]:
        """The frames of one window."""
        config = self.config
        count = 1 if window else self.first
        shape = (count, *self.frame)
        start = noise.randn(shape, f"start {window}")
        seen = torch.stack(before[-config.context :], 1) if before else start[:, :0]
        taken = self.taken(request)
        made = self.process.sample(
            partial(self._predicted, nets, seen, window),
            start,
            taken["sampler"],
            taken["steps"],
            taken["eta"],
            lambda k: noise.randn(shape, f"window {window} step {k}"),
        )
        return made.unbind(1)

    def taken(self, request: SampleRequest) -> Mapping[str, Any]:
        """What a sample is drawn with, defaults included."""
        config, asked = self.config, request.options or Frames()
        return {
            "sampler": asked.sampler or config.sampler,
            "steps": request.steps or min(config.sampling_steps, config.steps),
            "eta": config.eta if asked.eta is None else asked.eta,
        }

    def _predicted(
        self, nets: nn.ModuleDict, seen: Tensor, window: int, x: Tensor, t: Tensor
    ) -> Tensor:
        frames = torch.cat((seen, x), 1)
        count = frames.shape[1]
        places = torch.arange(count, device=x.device) + max(window - 1, 0)
        observed = torch.arange(count, device=x.device) < seen.shape[1]
        rows = (len(x), count)
        slots = Slots(places.expand(rows), torch.ones(rows, dtype=torch.bool, device=x.device))
        return self._said(nets, frames, t, observed.expand(rows), slots)[:, seen.shape[1] :]


def _shape(config: Config, clip: Clip) -> UNetShape:
    return UNetShape(
        side=clip.height,
        width=config.width,
        multipliers=config.multipliers,
        attention=config.attention,
        blocks=config.blocks,
        heads=config.heads,
        channels=clip.channels,
        outputs=clip.channels * (2 if config.variance == "learned" else 1),
        temporal=config.frames > 1,
        released=config.variant == "released",
    )


def _over(slots: Tensor, frames: Tensor) -> Tensor:
    """`B K` -> factors of frames `B K C H W`."""
    return slots[:, :, None, None, None].to(frames)
