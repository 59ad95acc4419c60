"""Transformers on volumes of tokens `B T H W D`: divided attention, and the sum over an axis."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hvdm.nets.attention import attention
from hvdm.nets.blocks import GEGLU, MLP, Attention, run
from hvdm.nets.rotary import (
    frequencies_1d,
    halved_1d,
    rotary_1d,
    rotary_2d,
    rotate,
    scales_2d,
)


@dataclass(frozen=True)
class Heads:
    """Width of the tokens, and how attention divides it."""

    width: int
    heads: int
    head_dim: int


class CrossAttention(nn.Module):
    """Pre-norm attention with its residual; keys and values come from two volumes of their own."""

    def __init__(self, size: Heads) -> None:
        super().__init__()
        inner = size.heads * size.head_dim
        self.heads = size.heads
        self.norm = nn.LayerNorm(size.width)
        self.query = nn.Linear(size.width, inner, bias=False)
        self.key = nn.Linear(size.width, inner, bias=False)
        self.value = nn.Linear(size.width, inner, bias=False)
        self.out = nn.Linear(inner, size.width)

    def forward(self, x: Tensor, rotation: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """`B N D`, and `B N D` twice -> `B N D`."""
        parts = (self.query(self.norm(x)), self.key(keys), self.value(values))
        q, k, v = (torch.unflatten(part, -1, (self.heads, -1)) for part in parts)
        answer = attention(rotate(q, rotation), rotate(k, rotation), v)
        out: Tensor = x + self.out(answer.flatten(2))
        return out


class SpaceTimeLayer(nn.Module):
    """Divided attention (TimeSformer, arXiv 2102.05095, eq. 8-9): time, then space, then GEGLU."""

    def __init__(self, width: int, time: nn.Module, space: nn.Module) -> None:
        super().__init__()
        self.time = time
        self.space = space
        self.feed_forward = GEGLU(width)

    def forward(self, x: Tensor, in_time: Tensor, in_space: Tensor, *context: Tensor) -> Tensor:
        """`B T S D` -> `B T S D`; volumes in `context`, of the same shape, go along."""
        b, t, s, _ = x.shape
        x = self.time(_sites(x), in_time, *(_sites(volume) for volume in context))
        x = torch.unflatten(x, 0, (b, s)).transpose(1, 2)
        x = self.space(x.flatten(0, 1), in_space, *(volume.flatten(0, 1) for volume in context))
        return torch.unflatten(self.feed_forward(x), 0, (b, t))


def _sites(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(0, 1)  # B T S D -> (B S) T D


class Rotations(nn.Module):
    """Rotary positions in time and space; released networks keep their frequencies as state."""

    frequencies: Tensor | None
    scales: Tensor | None

    def __init__(self, head_dim: int, released: bool) -> None:
        super().__init__()
        self.head_dim = head_dim
        kind = torch.get_default_dtype()
        kept = (frequencies_1d(head_dim), scales_2d(head_dim)) if released else (None, None)
        for name, values in zip(("frequencies", "scales"), kept, strict=True):
            self.register_buffer(name, None if values is None else values.to(kind))

    def forward(self, t: int, h: int, w: int, like: Tensor) -> tuple[Tensor, Tensor]:
        in_space = rotary_2d(h, w, self.head_dim, like, self.scales)
        if self.frequencies is None:
            return rotary_1d(t, self.head_dim, like), in_space
        return halved_1d(t, self.head_dim, like, self.frequencies), in_space


class SpaceTimeTransformer(nn.Module):
    """Layers of divided attention with rotary positions only, so that any T, H, W will do."""

    def __init__(
        self,
        size: Heads,
        depth: int,
        checkpointing: bool,
        released: bool = False,
        cross: bool = False,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.rotations = Rotations(size.head_dim, released)
        self.layers = nn.ModuleList(_layer(size, cross) for _ in range(depth))

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """`B T H W D` -> `B T H W D`; with cross-attention, `context` is keys and values."""
        _, t, h, w, _ = x.shape
        in_time, in_space = self.rotations(t, h, w, like=x)
        x = x.flatten(2, 3)
        context = tuple(volume.flatten(2, 3) for volume in context)
        for layer in self.layers:
            x = run(layer, self.checkpointing, x, in_time, in_space, *context)
        return torch.unflatten(x, 2, (h, w))


def _layer(size: Heads, cross: bool) -> SpaceTimeLayer:
    time, space = (
        CrossAttention(size) if cross else Attention(size.width, size.heads, size.head_dim)
        for _ in range(2)
    )
    return SpaceTimeLayer(size.width, time, space)


class ProjectionLayer(nn.Module):
    """One ViT layer (arXiv 2010.11929, eq. 2-3)."""

    def __init__(self, size: Heads, hidden: int) -> None:
        super().__init__()
        self.attention = Attention(size.width, size.heads, size.head_dim)
        self.feed_forward = MLP(size.width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.feed_forward(self.attention(x))
        return out


class AxisProjection(nn.Module):
    """Sums up an axis: appends a learned token to each fibre and reads it (PVDM, section 3.1).

    Released networks append it too, and read the first position of the axis.
    """

    def __init__(
        self,
        length: int,
        width: int,
        layers: Sequence[nn.Module],
        checkpointing: bool,
        released: bool = False,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.read = 0 if released else -1
        # read back whole, unit-size ones would saturate the tanh in front of the bottleneck
        size = 1.0 if released else 0.02
        self.token = nn.Parameter(size * torch.randn(1, 1, width))
        self.positions = nn.Parameter(size * torch.randn(1, length + 1, width))
        self.layers = nn.ModuleList(layers)

    def forward(self, fibres: Tensor) -> Tensor:
        """`B X Y N D` -> `B X Y D`."""
        rows = fibres.flatten(0, 2)
        x = torch.cat((rows, self.token.expand(len(rows), -1, -1)), 1) + self.positions
        for layer in self.layers:
            x = run(layer, self.checkpointing, x)
        return torch.unflatten(x[:, self.read], 0, fibres.shape[:3])
