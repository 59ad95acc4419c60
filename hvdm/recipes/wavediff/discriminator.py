"""The critic of a pair: coefficients and their noisier successor, at a step (DDGAN, 2112.07804)."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdm.ops.fir import halved
from hvdm.recipes.wavediff.layers import (
    ALMOST_ZERO,
    PLANE,
    Time,
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

    def __init__(self, inputs: int, outputs: int, time: int, down: bool) -> None:
        super().__init__()
        self.down = down
        self.conv_in = convolution(inputs, outputs)
        self.time = linear(time, outputs)
        self.conv_out = convolution(outputs, outputs, scale=ALMOST_ZERO)
        self.shortcut = convolution(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """`B C H W`, `B D` -> `B C' H' W'`."""
        h = active(self.conv_in(active(x)) + self.time(time)[:, :, None, None])
        if self.down:
            h, x = halved(h, PLANE), halved(x, PLANE)
        return merged(self.conv_out(h), self.shortcut(x))


def deviation(x: Tensor, group: int) -> Tensor:
    """`B C H W` -> `B 1 H W`: how unlike the rows of a group of consecutive ones are."""
    rows = x.unflatten(0, (-1, group))
    spread = (rows.var(1, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    of_each = spread.repeat_interleave(group)
    return of_each[:, None, None, None].expand(-1, 1, *x.shape[2:])


class Discriminator(nn.Module):
    """`small`: a first block at full size. Scores are sums over the last plane."""

    def __init__(
        self,
        channels: int,
        layers: int,
        small: bool,
        group: int,
        labels: int = 0,
        width: int = 64,
        time: int = 256,
    ) -> None:
        super().__init__()
        self.group = group
        self.label = nn.Embedding(labels, time) if labels else None
        first, widest = 2 * width, 8 * width
        widths = [first] if small else []
        widths += [min(first * 2**i, widest) for i in range(layers + (not small))]
        self.time = CriticTime(time)
        self.stem = convolution(2 * channels, first, 1)
        self.blocks = nn.ModuleList(
            CriticBlock(inputs, outputs, time, down=not (small and i == 0))
            for i, (inputs, outputs) in enumerate(pairwise(widths))
        )
        self.last = convolution(widest + 1, widest, scale=ALMOST_ZERO if small else 1.0)
        self.score = linear(widest, 1)

    def forward(self, y: Tensor, noisier: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """`B C H W` twice, `B` twice -> `B`."""
        pair = torch.cat((y, noisier), 1)
        h, time = self.stem(pair), self.time(t, pair)
        if self.label is not None:
            time = time + self.label(label)
        for block in self.blocks:
            h = block(h, time)
        h = active(self.last(torch.cat((h, deviation(h, self.group)), 1)))
        score: Tensor = self.score(h.sum((2, 3)))
        return score[:, 0]
