"""WaveDiff's generators: plain, as DDGAN's, and wavelet-embedded (arXiv 2211.16152, section 3.3).

From noisy coefficients, the step and what is drawn to the clean coefficients, in (-1, 1).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdm.recipes.wavediff.layers import (
    ALMOST_ZERO,
    Attention,
    Block,
    FirDown,
    FirPyramid,
    FirUp,
    FrequencyDown,
    FrequencyPyramid,
    FrequencyUp,
    Grid,
    Mapping,
    Time,
    TimeAttention,
    convolution,
    groups_of,
    joined,
    merged,
    split,
)


@dataclass(frozen=True)
class GeneratorShape:
    """`frames` is 0 for pictures. `attention` names the sides of levels with attention, which the
    middle always has, `over_time` those where each place attends to its other frames. With `past`
    it is shown what came before, of the size of what it makes.

    `bottleneck`, `resampling` and `pyramid` say which components know the bands. In `released`
    networks the middle's second block sees its own low band once more, with the same weights, and
    patches of `folded` places are unfolded in another order than they were folded in.
    """

    channels: int
    side: int
    width: int
    multipliers: tuple[int, ...]
    attention: tuple[int, ...] = ()
    bottleneck: bool = True
    resampling: bool = True
    pyramid: bool = True
    blocks: int = 2
    drawn: int = 100
    style: int = 256
    mapping: int = 3
    folded: int = 1
    labels: int = 0
    released: bool = False
    frames: int = 0
    over_time: tuple[int, ...] = ()
    past: bool = False


class Down(nn.Module):
    """Blocks of one level on the way down; the way to the next level, where there is one."""

    blocks: nn.ModuleList
    attention: nn.ModuleList
    narrow: Block | None
    pyramid: nn.Module | None

    def __init__(
        self,
        blocks: Sequence[Block],
        attention: Sequence[nn.Module],
        narrow: Block | None,
        pyramid: nn.Module | None,
    ) -> None:
        super().__init__()
        self.blocks, self.attention = nn.ModuleList(blocks), nn.ModuleList(attention)
        self.narrow, self.pyramid = narrow, pyramid


class Up(nn.Module):
    """Blocks of one level on the way up, each with what went across; the way to the next."""

    blocks: nn.ModuleList
    attention: nn.Module | None
    widen: Block | None

    def __init__(
        self, blocks: Sequence[Block], attention: nn.Module | None, widen: Block | None
    ) -> None:
        super().__init__()
        self.blocks, self.attention, self.widen = nn.ModuleList(blocks), attention, widen


class Middle(nn.Module):
    """The lowest level; with `bands`, its blocks see low bands only."""

    def __init__(
        self, channels: int, style: int, time: int, bands: bool, twice: bool, grid: Grid
    ) -> None:
        super().__init__()
        places = grid.below if bands and not twice else grid
        self.first = Block(channels, channels, style, time, places)
        self.attention = Attention(channels)
        self.second = Block(channels, channels, style, time, places)
        self.bands, self.twice, self.axes = bands, twice, grid.halving

    def forward(self, h: Tensor, time: Tensor, style: Tensor) -> Tensor:
        if not self.bands:
            out: Tensor = self.second(self.attention(self.first(h, time, style)), time, style)
            return out
        h = self.attention(self._on_low(self.first, h, time, style))
        if self.twice:
            h = self.second(h, time, style)
        return self._on_low(self.second, h, time, style)

    def _on_low(self, block: nn.Module, h: Tensor, time: Tensor, style: Tensor) -> Tensor:
        low, high = split(h, self.axes)
        return joined(block(low, time, style), high, self.axes)


class Generator(nn.Module):
    def __init__(self, shape: GeneratorShape) -> None:
        super().__init__()
        self.shape = shape
        time, self.deep = 4 * shape.width, len(shape.multipliers) - 1
        widths = [shape.width * m for m in shape.multipliers]
        self.time = Time(shape.width, time)
        self.label = nn.Embedding(shape.labels, time) if shape.labels else None
        self.mapping = Mapping(shape.drawn, shape.style, shape.mapping)
        outputs = shape.channels * shape.folded**2
        inputs = outputs * (2 if shape.past else 1)
        self.stem = convolution(inputs, shape.width, grid=self._grid(0))
        self.down = nn.ModuleList(
            self._down(level, before, width, time, inputs if level == 0 else before)
            for level, (before, width) in enumerate(pairwise([shape.width, *widths]))
        )
        self.middle = Middle(
            widths[-1], shape.style, time, shape.bottleneck, shape.released, self._grid(self.deep)
        )
        self.up = nn.ModuleList(
            self._up(level, widths, time) for level in reversed(range(len(widths)))
        )
        self.norm = nn.GroupNorm(groups_of(widths[0]), widths[0], eps=1e-6)
        self.head = convolution(widths[0], outputs, scale=ALMOST_ZERO, grid=self._grid(0))

    @property
    def ways_down(self) -> Iterable[Down]:
        return cast(Iterable[Down], self.down)

    @property
    def ways_up(self) -> Iterable[Up]:
        return cast(Iterable[Up], self.up)

    def _side(self, level: int) -> int:
        return self.shape.side // self.shape.folded // 2**level

    def _grid(self, level: int) -> Grid:
        grid = Grid(self.shape.frames)
        for _ in range(level):
            grid = grid.below
        return grid

    def _attention(self, level: int, width: int) -> nn.Module | None:
        side, several = self._side(level), self._grid(level).frames > 1
        layers: list[nn.Module] = []
        if side in self.shape.attention:
            layers.append(Attention(width))
        if side in self.shape.over_time and several:
            layers.append(TimeAttention(width))
        return nn.Sequential(*layers) if len(layers) > 1 else next(iter(layers), None)

    def _down(self, level: int, before: int, width: int, time: int, input_channels: int) -> Down:
        shape, grid = self.shape, self._grid(level)
        last = level == self.deep
        halving = FrequencyDown if shape.resampling else FirDown
        pyramid = FrequencyPyramid if shape.pyramid else FirPyramid
        return Down(
            [
                Block(before if i == 0 else width, width, shape.style, time, grid)
                for i in range(shape.blocks)
            ],
            [layer for _ in range(shape.blocks) if (layer := self._attention(level, width))],
            None if last else halving(width, width, shape.style, time, grid),
            None if last else pyramid(input_channels, width, grid),
        )

    def _up(self, level: int, widths: list[int], time: int) -> Up:
        """What goes across: of each block on the way down, and of the way into the level."""
        shape, width = self.shape, widths[level]
        below = widths[min(level + 1, self.deep)]
        into = widths[level - 1] if level else shape.width
        across = [*[width] * shape.blocks, into]
        inputs = [below, *[width] * shape.blocks]
        blocks = [
            Block(own + other, width, shape.style, time, self._grid(level))
            for own, other in zip(inputs, across, strict=True)
        ]
        attention = self._attention(level, width)
        if not level:
            return Up(blocks, attention, None)
        above, sizes = self._grid(level - 1), (shape.style, time)
        if shape.resampling:
            return Up(
                blocks,
                attention,
                FrequencyUp(width, width, widths[level - 1], *sizes, above),
            )
        return Up(blocks, attention, FirUp(width, width, *sizes, above))

    def forward(
        self,
        y: Tensor,
        t: Tensor,
        z: Tensor,
        label: Tensor | None = None,
        past: Tensor | None = None,
    ) -> Tensor:
        """`B C …`, `B`, `B Z`, `B`, `B C …` -> `B C …`; without a past, it is shown zeros."""
        if self.shape.past:
            y = torch.cat((y, torch.zeros_like(y) if past is None else past), 1)
        x = folded(y, self.shape.folded)
        time, style = self.time(t, x), self.mapping(z)
        if self.label is not None:
            time = time + self.label(label)
        h, across, high = self._descend(x, time, style)
        h = self.middle(h, time, style)
        h = self._ascend(h, across, high, time, style)
        out = torch.tanh(self.head(functional.silu(self.norm(h))))
        return unfolded(out, self.shape.folded, self.shape.released)

    def _descend(
        self, x: Tensor, time: Tensor, style: Tensor
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        h, pyramid = self.stem(x), x
        across, high = [h], []
        for level in self.ways_down:
            for i, block in enumerate(level.blocks):
                h = block(h, time, style)
                if level.attention:
                    h = level.attention[i](h)
                across.append(h)
            if level.narrow is None or level.pyramid is None:
                continue
            if isinstance(level.narrow, FrequencyDown):
                h, bands = level.narrow.narrowed(h, time, style)
                high.append(bands)
            else:
                h = level.narrow(h, time, style)
            h = pyramid = merged(level.pyramid(pyramid), h)
            across.append(h)
        return h, across, high

    def _ascend(
        self, h: Tensor, across: list[Tensor], high: list[Tensor], time: Tensor, style: Tensor
    ) -> Tensor:
        for level in self.ways_up:
            for block in level.blocks:
                h = block(torch.cat((h, across.pop()), 1), time, style)
            if level.attention is not None:
                h = level.attention(h)
            if isinstance(level.widen, FrequencyUp):
                h = level.widen.widened(h, high.pop(), time, style)
            elif level.widen is not None:
                h = level.widen(h, time, style)
        return h


def folded(y: Tensor, by: int) -> Tensor:
    """`B C H W` -> `B (rows columns C) H/by W/by`."""
    if by == 1:
        return y
    blocks = y.unflatten(3, (-1, by)).unflatten(2, (-1, by))  # B C H r W c
    return blocks.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


def unfolded(x: Tensor, by: int, released: bool) -> Tensor:
    """The inverse of `folded`; released networks read channels as (C rows columns)."""
    if by == 1:
        return x
    if released:
        blocks = x.unflatten(1, (-1, by, by)).permute(0, 1, 4, 2, 5, 3)
    else:
        blocks = x.unflatten(1, (by, by, -1)).permute(0, 3, 4, 1, 5, 2)
    return blocks.flatten(4, 5).flatten(2, 3)
