"""Draws a frame from a picture and its motion (arXiv 2309.07906, section 5).

Features of the picture, of several sizes, are splatted where they move, what moves most in front;
a decoder with style and noise draws the frame (after CoModGAN, arXiv 2103.10428, without a critic).
It learns from pairs of one clip with the flow that was estimated between them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdm.config import DataConfig
from hvdm.data.fields import Field, array, video
from hvdm.data.moves import VECTORS
from hvdm.errors import UserError
from hvdm.nets.blocks import ZeroConv2d
from hvdm.nets.perceptual import Perceptual, perceptual
from hvdm.ops.splat import averaged, front, splat
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
from hvdm.recipes.image_dynamics import spectra
from hvdm.recipes.image_dynamics.networks import ResidualBlock


@dataclass(frozen=True)
class Config:
    """`widths` are those of features at full size, half, and so on. `levels=single` splats the
    coarsest alone, `splatting=average` has no front: for comparison."""

    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    blocks: tuple[int, ...] = (1, 3, 4, 6, 3)
    style: int = 512
    splatting: Literal["softmax", "average"] = "softmax"
    levels: Literal["all", "single"] = "all"
    sharpness: float = 20.0
    pixel_weight: float = 0.0
    perceptual_weight: float = 1.0
    perceptual: Perceptual = "lpips"
    perceptual_weights: tuple[str, ...] = ()
    perceptual_sha256: tuple[str, ...] = ()


def reads(config: Config, data: DataConfig) -> tuple[Field, ...]:
    shape = (data.frames, 2, data.height, data.width)
    made_by = "`hvdm data derive motion DIR out=OUT flows=true` makes it, data.path=OUT reads it"
    flow = array("flow", "flow.npy", shape, VECTORS, "float32", timed=True, made_by=made_by)
    return spectra.from_first(video(data)), spectra.from_first(flow)


def build(config: Config, given: Given) -> Recipe:
    clip = given.clip
    if len(config.widths) != len(config.blocks) or not config.widths:
        raise UserError("model.widths and model.blocks have one number for each level")
    unit = 2 ** (len(config.widths) - 1)
    if clip.height % unit or clip.width % unit:
        raise UserError(
            f"data.height={clip.height} data.width={clip.width}: {len(config.widths)} levels "
            f"(model.widths) need multiples of {unit}"
        )
    if clip.frames < 2:
        raise UserError(f"data.frames={clip.frames}: pairs are of clips of two frames or more")
    return Renderer(config, clip)


# Networks


class Pyramid(nn.Module):
    """A picture -> features of each level, the finest first."""

    def __init__(self, widths: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, widths[0], 3, padding=1)
        levels = []
        for level, (wide, count) in enumerate(zip(widths, blocks, strict=True)):
            before = widths[max(0, level - 1)]
            first = nn.Conv2d(before, wide, 3, stride=2 if level else 1, padding=1)
            levels.append(nn.Sequential(first, *(ResidualBlock(wide, wide) for _ in range(count))))
        self.levels = nn.ModuleList(levels)

    def forward(self, picture: Tensor) -> list[Tensor]:
        found, h = [], self.enter(picture)
        for level in self.levels:
            h = level(h)
            found.append(h)
        return found


class ModulatedConv(nn.Module):
    """A convolution whose inputs are scaled by a style, and whose weights have length 1 then
    (StyleGAN2, arXiv 1912.04958, section 2.2)."""

    def __init__(self, inputs: int, outputs: int, told: int) -> None:
        super().__init__()
        self.scale = nn.Linear(told, inputs)
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale = 1 + self.scale(told)
        out = self.conv(x * scale[:, :, None, None])
        squares = self.conv.weight.square().sum((2, 3)) @ scale.square().T
        out = out * (squares.T + 1e-8).rsqrt()[:, :, None, None]
        return out + self.bias[:, None, None]


class DrawingBlock(nn.Module):
    """One level: what is below enlarged, the splatted features, noise, and colours."""

    def __init__(self, inputs: int, wide: int, told: int) -> None:
        super().__init__()
        self.first = ModulatedConv(inputs, wide, told)
        self.second = ModulatedConv(wide, wide, told)
        self.strength = nn.Parameter(torch.zeros(2))
        self.colours = ZeroConv2d(wide, 3, 1)

    def forward(
        self, h: Tensor | None, features: Tensor, told: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features `B C h w` and the level's part of the picture; `noise` is `B 2 h w`."""
        size = features.shape[-2:]
        below = features if h is None else functional.interpolate(h, size=size, mode="bilinear")
        h = self.first(below, told) + self.strength[0] * noise[:, :1]
        h = functional.leaky_relu(h, 0.2) + features
        h = self.second(h, told) + self.strength[1] * noise[:, 1:]
        h = functional.leaky_relu(h, 0.2)
        return h, self.colours(h)


class RendererNet(nn.Module):
    """Style and splatted features -> a frame, coarse to fine, colours added up."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths, style = config.widths, config.style
        self.config = config
        self.pyramid = Pyramid(widths, config.blocks)
        self.mapping = nn.Sequential(
            nn.Linear(style, style), nn.SiLU(), nn.Linear(style, style), nn.SiLU()
        )
        self.summary = nn.Linear(widths[-1], style)
        order = [widths[-1], *reversed(widths)]
        self.blocks = nn.ModuleList(
            DrawingBlock(inputs, wide, 2 * style)
            for inputs, wide in zip(order[:-1], order[1:], strict=True)
        )

    def forward(
        self, picture: Tensor, flow: Tensor, logits: Tensor, style: Tensor, noise: list[Tensor]
    ) -> Tensor:
        """`B 3 H W`, `B 2 H W` in pixels, `B 1 H W`, `B D`, noise of each level -> `B 3 H W`."""
        features = self._splatted(self.pyramid(picture), flow, logits)
        summary = self.summary(features[-1].mean((2, 3)))
        told = torch.cat((self.mapping(style), summary), 1)
        h: Tensor | None = None
        image = torch.zeros_like(features[-1][:, :3])
        for block, own, fresh in zip(self.blocks, reversed(features), reversed(noise), strict=True):
            h, colours = block(h, own, told, fresh)
            size = own.shape[-2:]
            image = functional.interpolate(image, size=size, mode="bilinear") + colours
        return image

    def _splatted(self, features: list[Tensor], flow: Tensor, logits: Tensor) -> list[Tensor]:
        coarsest = len(features) - 1
        alone = self.config.levels == "single"
        found = []
        for level, one in enumerate(features):
            if alone and level != coarsest:
                found.append(torch.zeros_like(one))
                continue
            small, heavy = at_size(flow, one.shape[-2:]), _resized(logits, one.shape[-2:])
            average = self.config.splatting == "average"
            thrown = averaged(one, small) if average else splat(one, small, heavy)
            found.append(thrown.values)
        return found


def at_size(flow: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Vectors `B 2 H W` at another size, in its pixels."""
    height, width = flow.shape[-2:]
    shares = flow.new_tensor([size[1] / width, size[0] / height])[:, None, None]
    return _resized(flow, size) * shares


def _resized(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    return functional.interpolate(x, size=tuple(size), mode="area")


# The recipe


class Renderer:
    averaged: tuple[str, ...] = ("renderer",)
    coder: Coder | None = None
    samples: Mapping[str, SampleKind] = {}

    def __init__(self, config: Config, clip: Clip) -> None:
        self.config, self.clip = config, clip
        files, sha256 = config.perceptual_weights, config.perceptual_sha256
        distance = perceptual(config.perceptual, clip.channels, files, sha256)
        self.trained = nn.ModuleDict({"renderer": RendererNet(config)})
        self.frozen = nn.ModuleDict({"perceptual": distance})
        self.phases: tuple[Phase, ...] = (Phase("renderer", self.loss),)

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        """Perceptual, and L1 where it is asked for, of one later frame of each row."""
        frames, flow = batch.pixels(), batch["flow"]
        t = (context.randint(self.clip.frames - 1, "frame") + 1).to(frames.device)
        rows = torch.arange(len(t), device=frames.device)
        target = frames[rows, :, t]
        made = self._drawn(self.trained, frames[:, :, 0], flow[rows, t], self._front(flow), context)
        logs = {
            "l1": (made - target).abs().mean((1, 2, 3)),
            "perceptual": self.frozen["perceptual"](made, target),
        }
        loss = self.config.perceptual_weight * logs["perceptual"]
        loss = loss + self.config.pixel_weight * logs["l1"]
        return loss, {name: one.detach() for name, one in logs.items()}

    def _front(self, motion: Tensor) -> Tensor:
        return front(motion, self.config.sharpness)

    def _drawn(
        self, nets: nn.ModuleDict, picture: Tensor, flow: Tensor, logits: Tensor, noise: Noise
    ) -> Tensor:
        style = noise.randn((self.config.style,), "style").to(picture)
        height, width = self.clip.height, self.clip.width
        fresh = [
            noise.randn((2, height >> level, width >> level), f"noise {level}").to(picture)
            for level in range(len(self.config.widths))
        ]
        made: Tensor = nets["renderer"](picture, flow, logits, style, fresh)
        return made

    @torch.no_grad()
    def film(self, picture: Tensor, motion: Tensor, whole: Tensor, noise: Noise) -> Tensor:
        """`B 3 H W`, `B T 2 H W` -> `B 3 T H W`; style and noise are those of the draw."""
        logits = self._front(whole)
        frames = [
            self._drawn(self.trained, picture, flow, logits, noise) for flow in motion.unbind(1)
        ]
        return torch.stack(frames, 2).clamp(-1, 1)

    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Tensor:
        raise UserError("a renderer draws what another run moves: renderer=RUN of that one")
