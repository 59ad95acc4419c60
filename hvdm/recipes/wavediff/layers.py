"""Layers of WaveDiff's generators (arXiv 2211.16152; DDGAN, arXiv 2112.07804; NCSN++, 2011.13456).

Everything works on `B C H W`; what is drawn, z, and the step, t, reach each block as vectors.
"""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdm.ops.fir import blurred, doubled, halved
from hvdm.ops.wavelet import haar, inverse_haar

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)

PLANE = (2, 3)
ALMOST_ZERO = 1e-10
"""Scale of the weights that begin as nothing: a block begins as its shortcut."""


def spread_(weight: Tensor, scale: float = 1.0) -> None:
    """Uniform weights whose variance is scale over the mean of inputs and outputs."""
    field = weight[0, 0].numel() if weight.ndim > 2 else 1
    fan = (weight.shape[0] + weight.shape[1]) / 2 * field
    bound = math.sqrt(3 * scale / fan)
    with torch.no_grad():
        weight.uniform_(-bound, bound)


def convolution(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    scale: float = 1.0,
    groups: int = 1,
    stride: int = 1,
    bias: bool = True,
) -> nn.Conv2d:
    """`kernel` x `kernel`; with stride 2, its input is padded already."""
    padding = 0 if stride > 1 else kernel // 2
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=bias)
    return _begun(layer, scale)


def linear(inputs: int, outputs: int, scale: float = 1.0) -> nn.Linear:
    return _begun(nn.Linear(inputs, outputs), scale)


def _begun(layer: Layer, scale: float) -> Layer:
    spread_(layer.weight, scale)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


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
        gain, bias = self.style(style)[:, :, None, None].chunk(2, 1)
        return gain * functional.group_norm(x, groups_of(self.channels), eps=1e-6) + bias


class Attention(nn.Module):
    """One head over all places, with its residual."""

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


def merged(a: Tensor, b: Tensor) -> Tensor:
    """The sum of two of equal size, at their size."""
    return (a + b) / math.sqrt(2)


class Block(nn.Module):
    """Two convolutions, told the step between them and the style in their norms."""

    def __init__(
        self, inputs: int, outputs: int, style: int, time: int, shortcut: bool | None = None
    ) -> None:
        super().__init__()
        self.norm_in = AdaptiveNorm(inputs, style)
        self.conv_in = convolution(inputs, outputs)
        self.time = linear(time, outputs)
        self.norm_out = AdaptiveNorm(outputs, style)
        self.conv_out = convolution(outputs, outputs, scale=ALMOST_ZERO)
        own = inputs != outputs if shortcut is None else shortcut
        self.shortcut = convolution(inputs, outputs, 1) if own else nn.Identity()

    def forward(self, x: Tensor, time: Tensor, style: Tensor) -> Tensor:
        """`B C H W`, `B D`, `B S` -> `B C' H W`."""
        h = self.conv_in(self._active(x, style))
        return self.finished(h, self.shortcut(x), time, style)

    def _active(self, x: Tensor, style: Tensor) -> Tensor:
        active: Tensor = functional.silu(self.norm_in(x, style))
        return active

    def finished(self, h: Tensor, x: Tensor, time: Tensor, style: Tensor) -> Tensor:
        h = h + self.time(functional.silu(time))[:, :, None, None]
        h = self.conv_out(functional.silu(self.norm_out(h, style)))
        return merged(x, h)


class FirDown(Block):
    """A block that halves, by the FIR filter."""

    def __init__(self, inputs: int, outputs: int, style: int, time: int) -> None:
        super().__init__(inputs, outputs, style, time, shortcut=True)

    def forward(self, x: Tensor, time: Tensor, style: Tensor) -> Tensor:
        h = self.conv_in(halved(self._active(x, style), PLANE))
        return self.finished(h, self.shortcut(halved(x, PLANE)), time, style)


class FirUp(Block):
    """A block that doubles, by the FIR filter."""

    def __init__(self, inputs: int, outputs: int, style: int, time: int) -> None:
        super().__init__(inputs, outputs, style, time, shortcut=True)

    def forward(self, x: Tensor, time: Tensor, style: Tensor) -> Tensor:
        h = self.conv_in(doubled(self._active(x, style), PLANE))
        return self.finished(h, self.shortcut(doubled(x, PLANE)), time, style)


# Frequency-aware blocks: the low band goes on, halved in size, the high bands go across


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """`B C H W` -> low band `B C H/2 W/2` at the size of x, and high bands `B 3 C H/2 W/2`."""
    bands = haar(x, PLANE)
    return bands[:, 0] / 2, bands[:, 1:]


def joined(low: Tensor, high: Tensor) -> Tensor:
    """The inverse of `split`."""
    return inverse_haar(torch.cat((2 * low[:, None], high), 1), PLANE)


class FrequencyDown(Block):
    """A block that halves by the wavelet transform, and hands its high bands out."""

    def __init__(self, inputs: int, outputs: int, style: int, time: int) -> None:
        super().__init__(inputs, outputs, style, time, shortcut=True)

    def narrowed(self, x: Tensor, time: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        """`B C H W` -> `B C' H/2 W/2`, `B 3 C' H/2 W/2`."""
        h, high = split(self.conv_in(self._active(x, style)))
        low, _ = split(self.shortcut(x))
        return self.finished(h, low, time, style), high


class FrequencyUp(Block):
    """A block that doubles by the inverse transform, with the high bands that came across."""

    def __init__(self, inputs: int, outputs: int, across: int, style: int, time: int) -> None:
        super().__init__(inputs, outputs, style, time, shortcut=True)
        self.high = convolution(3 * across, 3 * outputs, groups=3)

    def widened(self, x: Tensor, high: Tensor, time: Tensor, style: Tensor) -> Tensor:
        """`B C H W`, `B 3 A H W` -> `B C' 2H 2W`."""
        bands = 2 * self.high(high.flatten(1, 2) / 2).unflatten(1, (3, -1))
        h = joined(self.conv_in(self._active(x, style)), bands)
        return self.finished(h, joined(self.shortcut(x), bands), time, style)


class FirPyramid(nn.Module):
    """The network's input, halved and brought to a level's channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.project = convolution(inputs, outputs, stride=2)

    def forward(self, p: Tensor) -> Tensor:
        out: Tensor = self.project(blurred(p, PLANE))
        return out


class FrequencyPyramid(nn.Module):
    """The same from all four bands of the input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.project = convolution(4 * inputs, outputs)

    def forward(self, p: Tensor) -> Tensor:
        out: Tensor = self.project(haar(p, PLANE).flatten(1, 2) / 2)
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
