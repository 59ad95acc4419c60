"""A hierarchical VAE whose frames are an image that cools down (arXiv 2410.20158, section 2.2).

Its encoder is fixed, the heat equation (arXiv 2206.13397), or learned; the decoder is the same. An
image comes of the last frame, step by step; steps are drawn from 1 up to the last one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hvdm.config import DataConfig
from hvdm.data.fields import Field, video
from hvdm.errors import UserError
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
    to_model,
)
from hvdm.recipes.pseudo_video.diffusion import check_images, check_least, check_levels
from hvdm.recipes.pseudo_video.unet import UNet, UNetShape

PRIOR_IMAGES = 256
FAINT = 1e-3
"""A frequency of which less is left in the last frame is no part of what the prior knows."""
LOG_VARIANCES = (-10.0, 2.0)


@dataclass(frozen=True)
class Config:
    """`widths` are those of the first and the last blur, `spread` is the encoder's deviation,
    `step_spread` the decoder's. `warmup` are steps until the learned encoder pays in full."""

    encoder: Literal["fixed", "learned"] = "fixed"
    prior: Literal["images", "gaussian"] = "images"
    frames: int = 18
    widths: tuple[float, float] = (0.5, 20.0)
    spread: float = 0.01
    step_spread: float = 0.0125
    binary: bool = True
    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2)
    attention: tuple[int, ...] = (7,)
    blocks: int = 2
    heads: int = 4
    warmup: int = 10_000


def reads(config: Config, data: DataConfig) -> Sequence[Field]:
    return [video(data)]


def from_data(
    config: Config, clip: Clip, rows: Callable[[Sequence[int]], Batch]
) -> Mapping[str, Any]:
    """Low frequencies of the first images: what there is of the last frame to begin with."""
    if config.encoder == "learned":
        return {}
    side = kept(config, clip.height)
    images = grey(rows(range(PRIOR_IMAGES)), config)
    matrix = cosines(clip.height).to(images)
    found = (matrix @ images @ matrix.T)[:, :side, :side].double()
    return {"low": [[round(value, 5) for value in one] for one in found.flatten(1).tolist()]}


def _low(found: Mapping[str, Any], side: int) -> list[list[float]]:
    rows = found.get("low", [])
    if not isinstance(rows, list) or any(
        not isinstance(row, list) or len(row) != side**2 for row in rows
    ):
        raise UserError(f"from_data.low is no list of {side}x{side} frequencies of images")
    return rows


def build(config: Config, given: Given) -> Recipe:
    check_images(given.clip)
    check_levels(config.multipliers, config.width, config.heads, given.clip)
    check_least(config, ("blocks",))
    first, last = config.widths
    if not 0 < first < last or config.frames < 2:
        raise UserError(
            f"model.widths=[{first:g},{last:g}] model.frames={config.frames}: expected widths that "
            "grow from above 0, and 2 frames or more"
        )
    if config.spread < 0 or config.step_spread <= 0:
        raise UserError(
            f"model.spread={config.spread:g} model.step_spread={config.step_spread:g}: expected no "
            "spread below 0, and one above 0 of a step"
        )
    return HeatHierarchy(config, given)


# The heat equation


def grey(batch: Batch, config: Config) -> Tensor:
    """Images `B H W` in [0, 1], of 0 and 1 alone where they are binary."""
    value = batch["video"]
    pixels = value if value.is_floating_point() else to_model(value)
    images = (pixels[:, :, 0].mean(1) + 1) / 2
    return (images > 0.5).to(images) if config.binary else images


def cosines(side: int) -> Tensor:
    """The orthonormal DCT-II, `N N`."""
    places = torch.arange(side, dtype=torch.float64, device="cpu")
    matrix = torch.cos(math.pi / side * (places + 0.5) * places[:, None]) * math.sqrt(2 / side)
    matrix[0] /= math.sqrt(2)
    return matrix


def blur_levels(config: Config) -> list[float]:
    """Widths of the frames, that of the image first."""
    first, last = config.widths
    step = math.log(last / first) / (config.frames - 1)
    return [0.0, *(first * math.exp(step * i) for i in range(config.frames))]


def decay(side: int, width: float) -> list[float]:
    """What a blur of a width leaves of each frequency along one axis."""
    return [math.exp(-0.5 * (math.pi * i * width / side) ** 2) for i in range(side)]


def kept(config: Config, side: int) -> int:
    return sum(share > FAINT for share in decay(side, config.widths[1]))


class Cooling:
    """Blurs of all levels, on images `B H W`."""

    def __init__(self, config: Config, side: int) -> None:
        self.matrix = cosines(side)
        self.decays = torch.tensor(
            [decay(side, width) for width in blur_levels(config)], dtype=torch.float64
        )

    def blurred(self, images: Tensor, level: Tensor) -> Tensor:
        """One level for each row."""
        matrix = self.matrix.to(images)
        left = self.decays.to(images)[level]
        shares = left[:, :, None] * left[:, None]
        return matrix.T @ ((matrix @ images @ matrix.T) * shares) @ matrix

    def of_low(self, low: Tensor) -> Tensor:
        """The last frames that have these low frequencies, `B K K` -> `B H W`."""
        side = low.shape[1]
        matrix, left = self.matrix.to(low)[:side], self.decays.to(low)[-1, :side]
        return matrix.T @ (low * left[:, None] * left) @ matrix


class Hierarchy(nn.Module):
    """The decoder, and the encoder where it is learned: how far each step is from the one before,
    and of the encoder its log-variance."""

    def __init__(self, config: Config, side: int) -> None:
        super().__init__()
        self.decoder = UNet(_shape(config, side, 1))
        self.encoder = UNet(_shape(config, side, 2)) if config.encoder == "learned" else None

    def back(self, frame: Tensor, step: Tensor) -> Tensor:
        """The mean of the frame before, `B H W`."""
        out: Tensor = frame + self.decoder(frame[:, None], step)[:, 0]
        return out

    def on(self, frame: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the frame after."""
        assert self.encoder is not None
        apart, log_variance = self.encoder(frame[:, None], step).unbind(1)
        return frame + apart, log_variance.clamp(*LOG_VARIANCES)


def _shape(config: Config, side: int, outputs: int) -> UNetShape:
    return UNetShape(
        side=side,
        width=config.width,
        multipliers=config.multipliers,
        attention=config.attention,
        blocks=config.blocks,
        heads=config.heads,
        channels=1,
        outputs=outputs,
    )


class HeatHierarchy:
    averaged: tuple[str, ...] = ("hierarchy",)
    coder: Coder | None = None
    samples: Mapping[str, SampleKind] = {
        "images": SampleKind("images", medium="images"),
        "frames": SampleKind("the frames that lead to them"),
    }

    def __init__(self, config: Config, given: Given) -> None:
        self.config, self.clip = config, given.clip
        self.plane = (given.clip.height, given.clip.width)
        self.cooling = Cooling(config, given.clip.height)
        self.low = _low(given.from_data, kept(config, given.clip.height))
        self.net = Hierarchy(config, given.clip.height)
        self.trained = nn.ModuleDict({"hierarchy": self.net})
        self.frozen = nn.ModuleDict()
        learned = config.encoder == "learned"
        self.phases: tuple[Phase, ...] = (
            Phase("hierarchy", self.learned_loss if learned else self.fixed_loss),
        )

    # Losses

    def fixed_loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        """Squared distance to the frame before, summed over the image."""
        images = grey(batch, self.config)
        step = context.randint(self.config.frames, "step").to(images.device) + 1
        noise = context.randn(self.plane, "noise")
        cooled = self.cooling.blurred(images, step) + self.config.spread * noise
        apart = self.net.back(cooled, step) - self.cooling.blurred(images, step - 1)
        return apart.square().sum((1, 2)), {}

    def learned_loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        """The negative bound, a value; what the frames cost comes in slowly."""
        config = self.config
        frame = grey(batch, config)
        paid, first = torch.zeros_like(frame), torch.zeros_like(frame)
        for number in range(1, config.frames + 1):
            step = torch.full((len(frame),), number, device=frame.device)
            mean, log_variance = self.net.on(frame, step)
            noise = context.randn(self.plane, f"noise {number}")
            after = mean + torch.exp(0.5 * log_variance) * noise
            told = _log_normal(frame - self.net.back(after, step), 2 * math.log(config.step_spread))
            paid = paid + _log_normal(after - mean, log_variance)
            if number == 1:
                first = told
            else:
                paid = paid - told
            frame = after
        paid = paid - _log_normal(frame, 0.0)
        share = min(1.0, context.step / max(config.warmup, 1))
        bound = (share * paid - first).mean((1, 2))
        full = (paid - first).mean((1, 2)).detach()
        return bound, {"bound": full, "first": -first.mean((1, 2)).detach()}

    # Sampling

    @torch.no_grad()
    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Tensor:
        """Images `B C H W`, or with the frames that lead to them `B C T H W`, in [-1, 1]."""
        net, frames = nets["hierarchy"], [self._begun(noise)]
        assert isinstance(net, Hierarchy)
        for number in range(self.config.frames, 0, -1):
            before = frames[-1]
            step = torch.full((len(before),), number, device=before.device)
            frame = net.back(before, step)
            if number > 1:
                frame = frame + self.config.step_spread * noise.randn(self.plane, f"step {number}")
            frames.append(frame)
            if request.progress:
                request.progress(1 - (number - 1) / self.config.frames)
        film = torch.stack(frames, 1).clamp(0, 1) * 2 - 1
        film = film[:, None].expand(-1, self.clip.channels, -1, -1, -1)
        return film if request.what == "frames" else film[:, :, -1]

    def _begun(self, noise: Noise) -> Tensor:
        """The last frame: of an image of the training data, of a normal distribution that was
        fitted to them, or with a learned encoder noise."""
        if self.config.encoder == "learned":
            return noise.randn(self.plane, "start")
        low = torch.tensor(self.low, dtype=torch.get_default_dtype(), device=noise.device)
        side = kept(self.config, self.clip.height)
        if self.config.prior == "images":
            chosen = low[noise.randint(len(low), "image").to(low.device)]
        else:
            normal = noise.randn((low.shape[1],), "start")
            chosen = low.mean(0) + normal @ _root(low)
        return self.cooling.of_low(chosen.unflatten(1, (side, side)))


def _root(rows: Tensor) -> Tensor:
    """A matrix whose square is the covariance of rows."""
    values, vectors = torch.linalg.eigh(torch.cov(rows.T.double()).reshape(rows.shape[1], -1))
    return (vectors * values.clamp_min(0).sqrt() @ vectors.T).to(rows)


def _log_normal(apart: Tensor, log_variance: Tensor | float) -> Tensor:
    """The logarithm of a normal density."""
    spread = torch.as_tensor(log_variance).to(apart)
    return -0.5 * (apart.square() * torch.exp(-spread) + spread + math.log(2 * math.pi))
