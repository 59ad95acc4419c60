"""The second stage's denoiser: a U-Net over the latent's plane (ADM, arXiv 2105.05233).

The class is added to the time: cross-attention to a single token, as latent diffusion has it, is
a projection of that token, the same at every place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdm.nets.blocks import GroupAttention, TimeEmbedding, ZeroConv2d, group_norm


@dataclass(frozen=True)
class UNetShape:
    """`attention` names the sides of planes with attention; the middle always has it."""

    channels: int
    side: int
    width: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    heads: int
    labels: int


class TimedBlock(nn.Module):
    """Two convolutions, told the time between them as a gain and a bias."""

    def __init__(self, inputs: int, outputs: int, told: int) -> None:
        super().__init__()
        self.norm_in, self.norm_out = group_norm(inputs), group_norm(outputs)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, 1, 1)
        self.told = nn.Linear(told, 2 * outputs)
        self.conv_out = ZeroConv2d(outputs, outputs, 3, 1, 1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        h = self.conv_in(functional.silu(self.norm_in(x)))
        gain, bias = self.told(functional.silu(told))[:, :, None, None].chunk(2, 1)
        h = self.norm_out(h) * (1 + gain) + bias
        out: Tensor = self.shortcut(x) + self.conv_out(functional.silu(h))
        return out


class Attended(nn.Module):
    """A block, with attention behind it where there is any."""

    def __init__(self, inputs: int, outputs: int, told: int, heads: int) -> None:
        super().__init__()
        self.block = TimedBlock(inputs, outputs, told)
        self.attention = GroupAttention(outputs, heads) if heads else None

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        x = self.block(x, told)
        if self.attention is None:
            return x
        out: Tensor = self.attention(x.flatten(2)).reshape(x.shape)
        return out


class LatentUNet(nn.Module):
    def __init__(self, shape: UNetShape) -> None:
        super().__init__()
        self.shape = shape
        width, told = shape.width, 4 * shape.width
        widths = [width * factor for factor in shape.multipliers]
        self.time = TimeEmbedding(width, told)
        self.label = nn.Embedding(shape.labels + 1, told) if shape.labels else None
        self.stem = nn.Conv2d(shape.channels, width, 3, 1, 1)
        self.down, self.narrow = nn.ModuleList(), nn.ModuleList()
        across, now = [width], width
        for level, own in enumerate(widths):
            for _ in range(shape.blocks):
                self.down.append(Attended(now, own, told, self._heads(level)))
                across.append(now := own)
            if level < len(widths) - 1:
                self.narrow.append(nn.Conv2d(now, now, 3, 2, 1))
                across.append(now)
        self.middle = Attended(now, now, told, shape.heads)
        self.last = TimedBlock(now, now, told)
        self.up, self.widen = nn.ModuleList(), nn.ModuleList()
        for level, own in reversed(list(enumerate(widths))):
            for _ in range(shape.blocks + 1):
                self.up.append(Attended(now + across.pop(), own, told, self._heads(level)))
                now = own
            if level:
                self.widen.append(nn.Conv2d(now, now, 3, 1, 1))
        self.norm, self.head = group_norm(now), ZeroConv2d(now, shape.channels, 3, 1, 1)

    def _heads(self, level: int) -> int:
        return self.shape.heads if self.shape.side >> level in self.shape.attention else 0

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """`B C h w`, `B`, and classes `B`, -1 where none is told."""
        told = self.time(t, x)
        if self.label is not None:
            told = told + self.label(self._spoken(label, t))
        x, across = self._narrowed(self.stem(x), told)
        x = self.last(self.middle(x, told), told)
        up, widen = iter(self.up), iter(self.widen)
        for level in reversed(range(len(self.shape.multipliers))):
            for _ in range(self.shape.blocks + 1):
                x = next(up)(torch.cat([x, across.pop()], 1), told)
            if level:
                x = next(widen)(functional.interpolate(x, scale_factor=2, mode="nearest"))
        out: Tensor = self.head(functional.silu(self.norm(x)))
        return out

    def _spoken(self, label: Tensor | None, t: Tensor) -> Tensor:
        """The last embedding stands for no class."""
        none = self.shape.labels
        if label is None:
            return torch.full_like(t, none)
        return torch.where(label < 0, none, label)

    def _narrowed(self, x: Tensor, told: Tensor) -> tuple[Tensor, list[Tensor]]:
        across, down, narrow = [x], iter(self.down), iter(self.narrow)
        for level in range(len(self.shape.multipliers)):
            for _ in range(self.shape.blocks):
                x = next(down)(x, told)
                across.append(x)
            if level < len(self.shape.multipliers) - 1:
                x = next(narrow)(x)
                across.append(x)
        return x, across


def unit_of(multipliers: Sequence[int]) -> int:
    """What the latent's side has to be a multiple of."""
    return int(2 ** (len(multipliers) - 1))
