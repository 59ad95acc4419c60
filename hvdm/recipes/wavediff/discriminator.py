"""The critic of a pair: coefficients and their noisier successor, at a step (DDGAN, 2112.07804)."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdm.nets.blocks import ZeroEmbedding
from hvdm.ops.fir import halved
from hvdm.recipes.wavediff.layers import (
    ALMOST_ZERO,
    Grid,
    Time,
    beside,
    convolution,
    linear,
    merged,
)

SLOPE = 0.2


def active(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, SLOPE)


class CriticTime(Time):
    """The step -> features."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width)

    def forward(self, t: Tensor, like: Tensor) -> Tensor:
        """`B` -> `B D`."""
        return active(self.out(active(self.up(self.waves(t, like)))))


class CriticBlock(nn.Module):
    """Two convolutions, told the step between them; the second sees half the size or all of it."""

    def __init__(self, inputs: int, outputs: int, time: int, down: bool, grid: Grid) -> None:
        super().__init__()
        self.axes = grid.halving if down else ()
        self.conv_in = convolution(inputs, outputs, grid=grid)
        self.time = linear(time, outputs)
        to = grid.below if down else grid
        self.conv_out = convolution(outputs, outputs, scale=ALMOST_ZERO, grid=to)
        self.shortcut = convolution(inputs, outputs, 1, bias=False, grid=grid)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """`B C …`, `B D` -> `B C' …`."""
        h = active(self.conv_in(active(x)) + beside(self.time(time), x))
        h, x = halved(h, self.axes), halved(x, self.axes)
        return merged(self.conv_out(h), self.shortcut(x))


def deviation(x: Tensor, group: int) -> Tensor:
    """`B C …` -> `B 1 …`: how unlike the rows of a group of consecutive ones are."""
    rows = x.unflatten(0, (-1, group))
    spread = (rows.var(1, unbiased=False) + 1e-8).sqrt().mean(tuple(range(1, x.ndim)))
    of_each = spread.repeat_interleave(group)[:, None]
    return beside(of_each, x).expand(-1, 1, *x.shape[2:])


@dataclass(frozen=True)
class CriticShape:
    """`small`: a first block at full size. `frames` is 0 for pictures; with `past`, what came
    before lies beside the pair."""

    channels: int
    layers: int
    small: bool
    group: int
    labels: int = 0
    width: int = 64
    time: int = 256
    frames: int = 0
    past: bool = False


class Discriminator(nn.Module):
    """Scores are sums over the last places."""

    def __init__(self, shape: CriticShape) -> None:
        super().__init__()
        self.shape = shape
        # drawn at random, classes would be louder than pictures, and a critic then learns nothing
        self.label = ZeroEmbedding(shape.labels, shape.time) if shape.labels else None
        first, widest = 2 * shape.width, 8 * shape.width
        widths = [first] if shape.small else []
        widths += [min(first * 2**i, widest) for i in range(shape.layers + (not shape.small))]
        self.time = CriticTime(shape.time)
        grid = Grid(shape.frames)
        seen = (3 if shape.past else 2) * shape.channels
        self.stem = convolution(seen, first, 1, grid=grid)
        self.blocks = nn.ModuleList()
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            down = not (shape.small and i == 0)
            self.blocks.append(CriticBlock(inputs, outputs, shape.time, down, grid))
            grid = grid.below if down else grid
        scale = ALMOST_ZERO if shape.small else 1.0
        self.last = convolution(widths[-1] + 1, widths[-1], scale=scale, grid=grid)
        self.score = linear(widths[-1], 1)

    def forward(
        self,
        y: Tensor,
        noisier: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        past: Tensor | None = None,
    ) -> Tensor:
        """`B C …` twice, `B` twice, `B C …` -> `B`."""
        seen = [y, noisier]
        if self.shape.past:
            seen.append(torch.zeros_like(y) if past is None else past)
        pair = torch.cat(seen, 1)
        h, time = self.stem(pair), self.time(t, pair)
        if self.label is not None:
            time = time + self.label(label)
        for block in self.blocks:
            h = block(h, time)
        h = active(self.last(torch.cat((h, deviation(h, self.shape.group)), 1)))
        score: Tensor = self.score(h.sum(tuple(range(2, h.ndim))))
        return score[:, 0]
