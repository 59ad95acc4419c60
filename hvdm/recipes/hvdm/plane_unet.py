"""PVDM's 2D U-Net (arXiv 2302.07685): shared by the three planes, which attend to one another."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hvdm.nets.blocks import GroupAttention, TimeEmbedding, ZeroConv2d, group_norm
from hvdm.ops.triplane import flat, planes_of
from hvdm.recipes.hvdm.conditions import Numbers
from hvdm.recipes.hvdm.unet import Double, Halve, Nothing, ResBlock

Planes = tuple[Tensor, ...]
ATTENDED = 3
"""Levels whose planes attend to themselves: those at full, half and quarter size."""


class PlaneStep(nn.Module):
    """Modules applied to each plane alone, then attention over the positions of all planes."""

    def __init__(self, each: Sequence[nn.Module], width: int, heads: int) -> None:
        super().__init__()
        self.each = nn.ModuleList(each)
        self.joint = GroupAttention(width, heads)

    def forward(self, planes: Planes, time: Tensor) -> Planes:
        planes = tuple(self._one(plane, time) for plane in planes)
        return planes_of(self.joint(flat(planes)), [plane.shape[-2:] for plane in planes])

    def _one(self, plane: Tensor, time: Tensor) -> Tensor:
        for module in self.each:
            if isinstance(module, GroupAttention):
                plane = torch.unflatten(module(plane.flatten(2)), 2, plane.shape[-2:])
            else:
                plane = module(plane, time)
        return plane


def run(step: nn.Module, checkpointing: bool, planes: Planes, time: Tensor) -> Planes:
    if not (checkpointing and torch.is_grad_enabled()):
        out: Planes = step(planes, time)
        return out
    return checkpoint(step, planes, time, use_reentrant=False, preserve_rng_state=False)


class Steps:
    """Makes the steps of one network."""

    def __init__(self, widths: tuple[int, ...], blocks: int, time: int, heads: int) -> None:
        self.widths, self.blocks, self.time, self.heads = widths, blocks, time, heads
        self.skips = [widths[0]]

    def residual(self, inputs: int, outputs: int, resample: nn.Module | None = None) -> ResBlock:
        return ResBlock(inputs, outputs, self.time, resample, dimensions=2)

    def _attending(self, level: int) -> list[nn.Module]:
        return [GroupAttention(self.widths[level], self.heads)] if level < ATTENDED else []

    def down(self) -> list[PlaneStep]:
        steps = []
        for level, width in enumerate(self.widths):
            for _ in range(self.blocks):
                each = [self.residual(self.skips[-1], width), *self._attending(level)]
                steps.append(PlaneStep(each, width, self.heads))
                self.skips.append(width)
            if level + 1 < len(self.widths):
                steps.append(PlaneStep([self.residual(width, width, Halve())], width, self.heads))
                self.skips.append(width)
        return steps

    def middle(self) -> PlaneStep:
        width = self.widths[-1]
        attending = GroupAttention(width, self.heads)
        each = [self.residual(width, width), attending, self.residual(width, width)]
        return PlaneStep(each, width, self.heads)

    def up(self) -> list[PlaneStep]:
        steps, current, skips = [], self.widths[-1], list(self.skips)
        for level, width in reversed(list(enumerate(self.widths))):
            for i in range(self.blocks + 1):
                each = [self.residual(current + skips.pop(), width), *self._attending(level)]
                current = width
                if level and i == self.blocks:
                    each.append(self.residual(width, width, Double()))
                steps.append(PlaneStep(each, width, self.heads))
        return steps


class PlaneUNet(nn.Module):
    """Predicts the noise in flattened planes, beside which it sees a condition of their shape."""

    def __init__(
        self,
        channels: int,
        shapes: Sequence[tuple[int, int]],
        width: int,
        multipliers: tuple[int, ...],
        blocks: int,
        heads: int,
        checkpointing: bool,
        released: tuple[int, ...] | None = None,
        motion: bool = False,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.shapes = tuple(shapes)
        self.checkpointing = checkpointing
        widths, time = tuple(width * m for m in multipliers), 4 * width
        steps = Steps(widths, blocks, time, heads)
        self.nothing = Nothing(released)
        self.time = TimeEmbedding(width, time)
        self.numbers = Numbers(width, time, motion, classes)
        self.stem = nn.Conv2d(2 * channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(steps.down())
        self.middle = steps.middle()
        self.up = nn.ModuleList(steps.up())
        self.norm = group_norm(widths[0])
        self.head = ZeroConv2d(widths[0], channels, 3, padding=1)

    def forward(
        self,
        noisy: Tensor,
        t: Tensor,
        condition: Tensor | None = None,
        motion: Tensor | None = None,
        label: Tensor | None = None,
    ) -> Tensor:
        """`B E N`, `B`, `B E N`, `B`, `B` -> `B E N`."""
        time = self.numbers(self.time(t, like=noisy), motion, label)
        beside = self.nothing(condition, noisy)
        planes = planes_of(torch.cat((noisy, beside), 1), self.shapes)
        skips: list[Planes] = [tuple(self.stem(plane) for plane in planes)]
        for step in self.down:
            skips.append(run(step, self.checkpointing, skips[-1], time))
        planes = run(self.middle, self.checkpointing, skips[-1], time)
        for step in self.up:
            joined = zip(planes, skips.pop(), strict=True)
            planes = tuple(torch.cat(pair, 1) for pair in joined)
            planes = run(step, self.checkpointing, planes, time)
        return flat(tuple(self.head(nn.functional.silu(self.norm(p))) for p in planes))
