"""U-Nets of the frame diffusion: improved diffusion's of images (arXiv 2102.09672), and flexible
diffusion's of frames (arXiv 2205.11495), which is the same with attention over frames besides.

Frames are folded into rows for convolutions: `B K C H W` is `(B K) C H W` there.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdm.nets.attention import attention
from hvdm.nets.blocks import (
    GroupAttention,
    TimeEmbedding,
    ZeroConv2d,
    ZeroLinear,
    group_norm,
)


@dataclass(frozen=True)
class UNetShape:
    """`attention` names the sides of planes with attention; the middle always has it.

    `temporal`: of several frames, each with a plane that says whether it was observed.
    `released` networks add what attention over frames found to the normed features, not to
    what came in.
    """

    side: int
    width: int
    multipliers: tuple[int, ...]
    attention: tuple[int, ...]
    blocks: int = 2
    heads: int = 4
    channels: int = 3
    outputs: int = 3
    temporal: bool = False
    released: bool = False


class Slots(NamedTuple):
    """Which frames a window has: `B K` places in the video, and which slots are in use."""

    places: Tensor
    used: Tensor


class ResBlock(nn.Module):
    """Two convolutions; the time scales and shifts the second one's norm (FiLM)."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.norm_in = group_norm(inputs)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, 2 * outputs)
        self.norm_out = group_norm(outputs)
        self.conv_out = ZeroConv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """`N C H W`, `N D` -> `N C' H W`."""
        h = self.conv_in(functional.silu(self.norm_in(x)))
        scale, shift = self.time(functional.silu(time))[:, :, None, None].chunk(2, 1)
        h = self.norm_out(h) * (1 + scale) + shift
        out: Tensor = self.shortcut(x) + self.conv_out(functional.silu(h))
        return out


class Distance(nn.Module):
    """Vectors of each head for how far apart two frames are, at a time."""

    def __init__(self, width: int, heads: int, time: int) -> None:
        super().__init__()
        self.heads = heads
        self.apart = nn.Linear(3, width)
        self.time = nn.Linear(time, width)
        self.out = ZeroLinear(width, width)

    def forward(self, places: Tensor, time: Tensor) -> Tensor:
        """`B K`, `B D` -> `B K K heads d`."""
        apart = (places[:, :, None] - places[:, None]).to(time)
        features = torch.stack(
            (apart.clamp(min=0).log1p(), (-apart).clamp(min=0).log1p(), (apart == 0).to(time)), -1
        )
        told = functional.silu(self.apart(features) + self.time(time)[:, None, None])
        return torch.unflatten(self.out(told), -1, (self.heads, -1))


class FrameAttention(nn.Module):
    """Of each place over the frames that are in use."""

    def __init__(self, width: int, heads: int, time: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.of_query, self.of_key, self.of_value = (Distance(width, heads, time) for _ in range(3))
        self.out = ZeroLinear(width, width)

    def forward(self, x: Tensor, slots: Slots, time: Tensor) -> Tensor:
        """`B N K C`, `B K`, `B D` -> `B N K C`."""
        q, k, v = torch.unflatten(self.query_key_value(x), -1, (3, self.heads, -1)).unbind(-3)
        q = q * q.shape[-1] ** -0.5
        places = slots.places
        scores = torch.einsum("bnihd,bnjhd->bnhij", q, k)
        scores = scores + torch.einsum("bnihd,bijhd->bnhij", q, self.of_key(places, time))
        scale = q.shape[-1] ** -0.5
        scores = scores + torch.einsum("bnjhd,bjihd->bnhij", scale * k, self.of_query(places, time))
        shares = scores.masked_fill(~_seen(slots.used)[:, None, None], -torch.inf).softmax(-1)
        found = torch.einsum("bnhij,bnjhd->bnihd", shares, v)
        found = found + torch.einsum("bnhij,bijhd->bnihd", shares, self.of_value(places, time))
        out: Tensor = self.out(found.flatten(3))
        return out


def _seen(used: Tensor) -> Tensor:
    """`B K` -> `B K K`: frames in use see each other, any other one sees itself alone."""
    alone = torch.eye(used.shape[1], dtype=torch.bool, device=used.device)
    return used[:, :, None] & used[:, None] | alone


class PlaneAttention(nn.Module):
    """Of each frame over its places."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = ZeroLinear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`M N C` -> `M N C`."""
        q, k, v = torch.unflatten(self.query_key_value(x), -1, (3, self.heads, -1)).unbind(-3)
        out: Tensor = self.out(attention(q, k, v).flatten(2))
        return out


class VideoAttention(nn.Module):
    """Over frames, then within each, with the residuals."""

    def __init__(self, width: int, shape: UNetShape) -> None:
        super().__init__()
        time = 4 * shape.width
        self.released = shape.released
        self.norm_frames, self.norm_plane = group_norm(width), group_norm(width)
        self.frames = FrameAttention(width, shape.heads, time)
        self.plane = PlaneAttention(width, shape.heads)

    def forward(self, x: Tensor, slots: Slots, time: Tensor) -> Tensor:
        """`(B K) C H W`, slots, `B D` -> `(B K) C H W`."""
        count = slots.places.shape[1]
        rows = x.flatten(2).unflatten(0, (-1, count))  # B K C N
        normed = self._across(rows, slots.used)
        seen = self.frames(normed.permute(0, 3, 1, 2), slots, time).permute(0, 2, 3, 1)
        h = ((normed if self.released else rows) + seen).flatten(0, 1)  # (B K) C N
        normed = self.norm_plane(h)
        seen = self.plane(normed.transpose(1, 2)).transpose(1, 2)
        return ((normed if self.released else h) + seen).reshape(x.shape)

    def _across(self, rows: Tensor, used: Tensor) -> Tensor:
        """The group norm of each place over the frames in use: `B K C N`."""
        norm = self.norm_frames
        x = rows.unflatten(2, (norm.num_groups, -1))  # B K G c N
        share = used.to(rows) / used.sum(1, keepdim=True).to(rows) / x.shape[3]
        mean = torch.einsum("bkgcn,bk->bgn", x, share)[:, None, :, None]
        apart = x - mean
        variance = torch.einsum("bkgcn,bk->bgn", apart.square(), share)[:, None, :, None]
        normed = (apart * (variance + norm.eps).rsqrt()).flatten(2, 3)
        return normed * norm.weight[:, None] + norm.bias[:, None]


class Step(nn.Module):
    """A block, attention where the plane has it, and the way to another size where it ends."""

    def __init__(self, block: nn.Module, attends: nn.Module | None, up: nn.Module | None) -> None:
        super().__init__()
        self.block, self.attends, self.up = block, attends, up

    def forward(self, x: Tensor, time: Tensor, slots: Slots | None, told: Tensor) -> Tensor:
        x = self.block(x, time)
        if isinstance(self.attends, VideoAttention) and slots is not None:
            x = self.attends(x, slots, told)
        elif self.attends is not None:
            x = self.attends(x.flatten(2)).reshape(x.shape)
        if self.up is not None:
            x = self.up(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class UNet(nn.Module):
    """Noisy images or windows of frames, a time, and what else a window has -> noise."""

    def __init__(self, shape: UNetShape) -> None:
        super().__init__()
        self.shape = shape
        self.widths = [shape.width * factor for factor in shape.multipliers]
        self.time = TimeEmbedding(shape.width, 4 * shape.width)
        self.stem = nn.Conv2d(shape.channels + shape.temporal, shape.width, 3, padding=1)
        self.ways_down = nn.ModuleList(self._down())
        widest = self.widths[-1]
        self.middle = self._step(widest, widest, attends=True)
        self.last_block = ResBlock(widest, widest, 4 * shape.width)
        self.ways_up = nn.ModuleList(self._up())
        self.norm = group_norm(shape.width)
        self.head = ZeroConv2d(shape.width, shape.outputs, 3, padding=1)

    def _step(self, inputs: int, outputs: int, attends: bool, up: bool = False) -> Step:
        shape = self.shape
        seen: nn.Module | None = None
        if attends and shape.temporal:
            seen = VideoAttention(outputs, shape)
        elif attends:
            seen = GroupAttention(outputs, shape.heads)
        block = ResBlock(inputs, outputs, 4 * shape.width)
        return Step(block, seen, nn.Conv2d(outputs, outputs, 3, padding=1) if up else None)

    def _attends(self, level: int) -> bool:
        return self.shape.side // 2**level in self.shape.attention

    def _down(self) -> Iterable[nn.Module]:
        before = [self.shape.width, *self.widths]
        for level, (inputs, width) in enumerate(pairwise(before)):
            for i in range(self.shape.blocks):
                yield self._step(width if i else inputs, width, self._attends(level))
            if level < len(self.widths) - 1:
                yield nn.Conv2d(width, width, 3, stride=2, padding=1)

    def _up(self) -> Iterable[Step]:
        """What goes across: of each block on the way down, and of the way into the level."""
        shape, before = self.shape, [self.shape.width, *self.widths]
        inputs = self.widths[-1]
        for level in reversed(range(len(self.widths))):
            width = self.widths[level]
            for i, across in enumerate([*[width] * shape.blocks, before[level]]):
                up = bool(level) and i == shape.blocks
                yield self._step(inputs + across, width, self._attends(level), up)
                inputs = width

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        observed: Tensor | None = None,
        slots: Slots | None = None,
    ) -> Tensor:
        """Images `B C H W`, `B` -> `B C' H W`; windows `B K C H W`, and with them which frames
        were observed, `B K`, and their slots -> `B K C' H W`."""
        time = self.time(t, x)
        if observed is None or slots is None:
            return self._through(x, time, None, time)
        said = observed[:, :, None, None, None].to(x).expand(-1, -1, 1, *x.shape[3:])
        rows = torch.cat((x, said), 2).flatten(0, 1)
        each = time.repeat_interleave(x.shape[1], 0)
        return self._through(rows, each, slots, time).unflatten(0, x.shape[:2])

    def _through(self, x: Tensor, time: Tensor, slots: Slots | None, told: Tensor) -> Tensor:
        h = self.stem(x)
        across = [h]
        for way in self.ways_down:
            h = way(h, time, slots, told) if isinstance(way, Step) else way(h)
            across.append(h)
        h = self.last_block(self.middle(h, time, slots, told), time)
        for way in self.ways_up:
            h = way(torch.cat((h, across.pop()), 1), time, slots, told)
        out: Tensor = self.head(functional.silu(self.norm(h)))
        return out
