"""Layers of WaveDiff's generators (arXiv 2211.16152; DDGAN, arXiv 2112.07804; NCSN++, 2011.13456).

Everything works on pictures, `B C H W`, or on clips, `B C T H W`; what is drawn, z, and the step,
t, reach each block as vectors.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdm.ops.fir import blurred, doubled, halved
from hvdm.ops.wavelet import haar, inverse_haar

Layer = TypeVar("Layer", nn.Conv2d, nn.Conv3d, nn.Linear)

ALMOST_ZERO = 1e-10
"""Scale of the weights that begin as nothing: a block begins as its shortcut."""


@dataclass(frozen=True)
class Grid:
    """The places of a level: those of a picture, where `frames` is 0, or of so many frames."""

    frames: int = 0

    @property
    def halving(self) -> tuple[int, ...]:
        """The axes that the way to the level below halves: time as long as it can be."""
        if not self.frames:
            return (2, 3)
        return (3, 4) if self.frames % 2 else (2, 3, 4)

    @property
    def bands(self) -> int:
        return int(2 ** len(self.halving))

    @property
    def below(self) -> "Grid":
        return self if self.frames % 2 else Grid(self.frames // 2)


PICTURE = Grid()


def spread_(weight: Tensor, scale: float = 1.0) -> None:
    """Uniform weights whose variance is scale over the mean of inputs and outputs."""
    field = weight[0, 0].numel() if weight.ndim > 2 else 1
    fan = (weight.shape[0] + weight.shape[1]) / 2 * field
    bound = math.sqrt(3 * scale / fan)
    with torch.no_grad():
        weight.uniform_(-bound, bound)


class Factored(nn.Sequential):
    """A convolution of each frame, then one over time that begins as the identity."""

    def __init__(self, over_space: nn.Conv3d, groups: int) -> None:
        channels = over_space.out_channels
        sizes = (3, 1, 1)
        over_time = nn.Conv3d(channels, channels, sizes, padding=(1, 0, 0), groups=groups)
        nn.init.dirac_(over_time.weight, groups)
        if over_time.bias is not None:
            nn.init.zeros_(over_time.bias)
        super().__init__(over_space, over_time)


def convolution(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    scale: float = 1.0,
    groups: int = 1,
    bias: bool = True,
    grid: Grid = PICTURE,
) -> nn.Module:
    """`kernel` x `kernel` places; over three frames too, where there are several."""
    pad = kernel // 2
    if not grid.frames:
        plane = nn.Conv2d(inputs, outputs, kernel, padding=pad, groups=groups, bias=bias)
        return _begun(plane, scale)
    sizes = (1, kernel, kernel)
    frame = nn.Conv3d(inputs, outputs, sizes, padding=(0, pad, pad), groups=groups, bias=bias)
    begun = _begun(frame, scale)
    return begun if kernel == 1 or grid.frames == 1 else Factored(begun, groups)


def halving_convolution(inputs: int, outputs: int, grid: Grid) -> nn.Module:
    """Keeps every second place along the axes that are halved, which are padded already."""
    if not grid.frames:
        return _begun(nn.Conv2d(inputs, outputs, 3, 2), 1.0)
    kernel, stride = (3, 2) if 2 in grid.halving else (1, 1)
    return _begun(nn.Conv3d(inputs, outputs, (kernel, 3, 3), (stride, 2, 2)), 1.0)


def linear(inputs: int, outputs: int, scale: float = 1.0) -> nn.Linear:
    return _begun(nn.Linear(inputs, outputs), scale)


def _begun(layer: Layer, scale: float) -> Layer:
    spread_(layer.weight, scale)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def beside(features: Tensor, x: Tensor) -> Tensor:
    """`B D` -> `B D 1 1 …`, to be broadcast over the places of x."""
    return features.reshape(*features.shape, *[1] * (x.ndim - 2))


def groups_of(channels: int) -> int:
    return min(channels // 4, 32)


class AdaptiveNorm(nn.Module):
    """GroupNorm whose gain and bias come from the style (AdaGN)."""

    def __init__(self, channels: int, style: int) -> None:
        super().__init__()
        self.channels = channels
        self.style = linear(style, 2 * channels)
        with torch.no_grad():
            self.style.bias[:channels] = 1

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        gain, bias = beside(self.style(style), x).chunk(2, 1)
        return gain * functional.group_norm(x, groups_of(self.channels), eps=1e-6) + bias


class Attention(nn.Module):
    """One head over all places, those of all frames too, with its residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups_of(channels), channels, eps=1e-6)
        self.query, self.key, self.value = (linear(channels, channels, 0.1) for _ in range(3))
        self.out = linear(channels, channels, ALMOST_ZERO)

    def forward(self, x: Tensor) -> Tensor:
        places = self.norm(x).flatten(2).transpose(1, 2)  # B N C
        attended = functional.scaled_dot_product_attention(
            self.query(places), self.key(places), self.value(places)
        )
        return merged(x, self.out(attended).transpose(1, 2).reshape(x.shape))


class TimeAttention(Attention):
    """Each place over the frames of a clip."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 3, 4, 1, 2)  # B H W C T
        attended = super().forward(rows.flatten(0, 2))
        return attended.reshape(rows.shape).permute(0, 3, 4, 1, 2)


def merged(a: Tensor, b: Tensor) -> Tensor:
    """The sum of two of equal size, at their size."""
    return (a + b) / math.sqrt(2)


class Block(nn.Module):
    """Two convolutions, told the step between them and the style in their norms.

    Places are those of `grid` for the first one, those of `to`, or of `grid`, for the second.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        style: int,
        time: int,
        grid: Grid = PICTURE,
        to: Grid | None = None,
        shortcut: bool | None = None,
    ) -> None:
        super().__init__()
        self.norm_in = AdaptiveNorm(inputs, style)
        self.conv_in = convolution(inputs, outputs, grid=grid)
        self.time = linear(time, outputs)
        self.norm_out = AdaptiveNorm(outputs, style)
        self.conv_out = convolution(outputs, outputs, scale=ALMOST_ZERO, grid=to or grid)
        own = inputs != outputs if shortcut is None else shortcut
        self.shortcut = convolution(inputs, outputs, 1, grid=grid) if own else nn.Identity()

    def forward(self, x: Tensor, time: Tensor, style: Tensor) -> Tensor:
        """`B C …`, `B D`, `B S` -> `B C' …`."""
        h = self.conv_in(self._active(x, style))
        return self.finished(h, self.shortcut(x), time, style)

    def _active(self, x: Tensor, style: Tensor) -> Tensor:
        active: Tensor = functional.silu(self.norm_in(x, style))
        return active

    def finished(self, h: Tensor, x: Tensor, time: Tensor, style: Tensor) -> Tensor:
        h = h + beside(self.time(functional.silu(time)), h)
        h = self.conv_out(functional.silu(self.norm_out(h, style)))
        return merged(x, h)


class FirDown(Block):
    """A block that halves, by the FIR filter."""

    def __init__(self, inputs: int, outputs: int, style: int, time: int, grid: Grid) -> None:
        super().__init__(inputs, outputs, style, time, grid.below, shortcut=True)
        self.axes = grid.halving

    def forward(self, x: Tensor, time: Tensor, style: Tensor) -> Tensor:
        h = self.conv_in(halved(self._active(x, style), self.axes))
        return self.finished(h, self.shortcut(halved(x, self.axes)), time, style)


class FirUp(Block):
    """A block that doubles to the places of `grid`, by the FIR filter."""

    def __init__(self, inputs: int, outputs: int, style: int, time: int, grid: Grid) -> None:
        super().__init__(inputs, outputs, style, time, grid, shortcut=True)
        self.axes = grid.halving

    def forward(self, x: Tensor, time: Tensor, style: Tensor) -> Tensor:
        h = self.conv_in(doubled(self._active(x, style), self.axes))
        return self.finished(h, self.shortcut(doubled(x, self.axes)), time, style)


# Frequency-aware blocks: the low band goes on, halved in size, the high bands go across


def gain(axes: tuple[int, ...]) -> float:
    """How much larger than its input the low band can be."""
    return math.sqrt(2 ** len(axes))


def split(x: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """`B C …` -> low band `B C …` at the size of x, and high bands `B K C …`."""
    bands = haar(x, axes)
    return bands[:, 0] / gain(axes), bands[:, 1:]


def joined(low: Tensor, high: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The inverse of `split`."""
    return inverse_haar(torch.cat((gain(axes) * low[:, None], high), 1), axes)


class FrequencyDown(Block):
    """A block that halves by the wavelet transform, and hands its high bands out."""

    def __init__(self, inputs: int, outputs: int, style: int, time: int, grid: Grid) -> None:
        super().__init__(inputs, outputs, style, time, grid, grid.below, shortcut=True)
        self.axes = grid.halving

    def narrowed(self, x: Tensor, time: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        """`B C …` -> `B C' …`, `B K C' …`."""
        h, high = split(self.conv_in(self._active(x, style)), self.axes)
        low, _ = split(self.shortcut(x), self.axes)
        return self.finished(h, low, time, style), high


class FrequencyUp(Block):
    """A block that doubles to the places of `grid` by the inverse transform, with the high bands
    that came across."""

    def __init__(
        self, inputs: int, outputs: int, across: int, style: int, time: int, grid: Grid
    ) -> None:
        super().__init__(inputs, outputs, style, time, grid.below, grid, shortcut=True)
        self.axes, self.bands = grid.halving, grid.bands - 1
        sizes = (self.bands * across, self.bands * outputs)
        self.high = convolution(*sizes, groups=self.bands, grid=grid.below)

    def widened(self, x: Tensor, high: Tensor, time: Tensor, style: Tensor) -> Tensor:
        """`B C …`, `B K A …` -> `B C' …`."""
        by = gain(self.axes)
        bands = by * self.high(high.flatten(1, 2) / by).unflatten(1, (self.bands, -1))
        h = joined(self.conv_in(self._active(x, style)), bands, self.axes)
        return self.finished(h, joined(self.shortcut(x), bands, self.axes), time, style)


class FirPyramid(nn.Module):
    """The network's input, halved and brought to a level's channels."""

    def __init__(self, inputs: int, outputs: int, grid: Grid) -> None:
        super().__init__()
        self.project = halving_convolution(inputs, outputs, grid)
        self.axes = grid.halving

    def forward(self, p: Tensor) -> Tensor:
        out: Tensor = self.project(blurred(p, self.axes))
        return out


class FrequencyPyramid(nn.Module):
    """The same from all bands of the input."""

    def __init__(self, inputs: int, outputs: int, grid: Grid) -> None:
        super().__init__()
        self.project = convolution(grid.bands * inputs, outputs, grid=grid.below)
        self.axes = grid.halving

    def forward(self, p: Tensor) -> Tensor:
        out: Tensor = self.project(haar(p, self.axes).flatten(1, 2) / gain(self.axes))
        return out


class Mapping(nn.Module):
    """What is drawn -> style."""

    def __init__(self, drawn: int, style: int, layers: int) -> None:
        super().__init__()
        widths = [drawn, *[style] * (layers + 1)]
        self.layers = nn.ModuleList(linear(*pair) for pair in zip(widths, widths[1:], strict=False))

    def forward(self, z: Tensor) -> Tensor:
        """`B Z` -> `B S`."""
        style = z / torch.sqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            style = functional.silu(layer(style))
        return style


class Time(nn.Module):
    """The step -> features; sines, then cosines."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.width = width
        self.up = linear(width, out)
        self.out = linear(out, out)

    def forward(self, t: Tensor, like: Tensor) -> Tensor:
        """`B` -> `B D`."""
        features: Tensor = self.out(functional.silu(self.up(self.waves(t, like))))
        return features

    def waves(self, t: Tensor, like: Tensor) -> Tensor:
        half = self.width // 2
        places = torch.arange(half, dtype=torch.float64, device=t.device)
        angles = t[:, None] * torch.exp(-math.log(10000) * places / (half - 1))
        return torch.cat((angles.sin(), angles.cos()), 1).to(like)
