"""WildFusion's autoencoder: a pyramid encoder, and a decoder to a triplane in view space.

The order of parts is the paper's (arXiv 2311.13570, figure 3); their sizes are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdm.nets.attention import attention
from hvdm.nets.blocks import group_norm

PLANES = 3
LEAST_LOG, MOST_LOG = -30.0, 20.0
"""Of the latent's variance, as in latent diffusion (arXiv 2112.10752)."""


class ResBlock(nn.Module):
    """Two convolutions and a shortcut; stride 2 halves."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.norm_in, self.norm_out = group_norm(inputs), group_norm(outputs)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv_out = nn.Conv2d(outputs, outputs, 3, 1, 1)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(functional.silu(self.norm_in(x)))
        out: Tensor = self.shortcut(x) + self.conv_out(functional.silu(self.norm_out(h)))
        return out


# Encoder


class PyramidEncoder(nn.Module):
    """Picture and nearness -> mean and log-variance of the latent (FPN, arXiv 1612.03144).

    Stage i of the trunk has stride 2^(i + 1); what comes down from the top is taken at `tap`.
    """

    def __init__(self, widths: Sequence[int], tap: int, width: int, latent: int) -> None:
        super().__init__()
        self.tap = tap
        self.stem = nn.Conv2d(4, widths[0], 3, 1, 1)
        self.stages = nn.ModuleList(
            ResBlock(*pair, stride=2) for pair in pairwise([widths[0], *widths])
        )
        self.across = nn.ModuleList(nn.Conv2d(w, width, 1) for w in widths[tap:])
        self.smooth = ResBlock(width, width)
        self.head = nn.Conv2d(width, 2 * latent, 1)

    def forward(self, picture: Tensor, nearness: Tensor) -> tuple[Tensor, Tensor]:
        """`B 3 H W` and `B 1 H W` in [-1, 1] -> `B C h w` twice."""
        x, found = self.stem(torch.cat([picture, nearness], 1)), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        levels = [one(x) for one, x in zip(self.across, found[self.tap :], strict=True)]
        top = levels.pop()
        while levels:
            below = levels.pop()
            top = below + functional.interpolate(top, below.shape[2:], mode="nearest")
        mean, log = self.head(self.smooth(top)).chunk(2, 1)
        return mean, log.clamp(LEAST_LOG, MOST_LOG)


# Decoder


class ReducedAttention(nn.Module):
    """Attention whose keys and values are of fewer places (SegFormer, arXiv 2105.15203)."""

    def __init__(self, width: int, heads: int, reduce: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.fewer = nn.Conv2d(width, width, reduce, reduce) if reduce > 1 else None
        self.normed = nn.LayerNorm(width) if reduce > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """`B P h w D` -> the same, over the places of all P planes together."""
        shape, own = x.shape, self.norm(x)
        told = own
        if self.fewer is not None and self.normed is not None:
            planes = own.flatten(0, 1).movedim(-1, 1)
            told = self.normed(self.fewer(planes).movedim(1, -1)).unflatten(0, shape[:2])
        q = self.query(own.flatten(1, 3))
        k, v = self.key_value(told.flatten(1, 3)).chunk(2, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in (q, k, v))
        out: Tensor = x + self.out(attention(q, k, v).flatten(2)).reshape(shape)
        return out


class MixedFeedForward(nn.Module):
    """Feed-forward that sees its neighbours, so that places need no other position (SegFormer)."""

    def __init__(self, width: int, expansion: int = 4) -> None:
        super().__init__()
        hidden = expansion * width
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.beside = nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden)

    def forward(self, x: Tensor) -> Tensor:
        planes = self.up(self.norm(x)).flatten(0, 1).movedim(-1, 1)
        mixed = functional.gelu(self.beside(planes)).movedim(1, -1).unflatten(0, x.shape[:2])
        out: Tensor = x + self.down(mixed)
        return out


class TransformerBlock(nn.Module):
    def __init__(self, width: int, heads: int, reduce: int) -> None:
        super().__init__()
        self.attend = ReducedAttention(width, heads, reduce)
        self.feed = MixedFeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.feed(self.attend(x))
        return out


class Places(nn.Module):
    """A learned vector for each place of P planes, added."""

    def __init__(self, planes: int, side: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(planes, side, side, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


@dataclass(frozen=True)
class DecoderShape:
    """`blocks` of transformers before and after the convolutions, which double at each width."""

    latent: int
    side: int
    width: int
    heads: int
    blocks: tuple[int, int]
    widths: tuple[int, ...]
    patch: int
    reduce: int
    channels: int

    @property
    def plane_side(self) -> int:
        return self.side * 2 ** len(self.widths)


class TriplaneDecoder(nn.Module):
    """Latent -> planes: transformer, convolutions, and a transformer over all three planes.

    What the convolutions made lies as the picture does, so it goes straight to the plane of x and y
    alone; the other two are what the second transformer asks of it.
    """

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        last, side = shape.widths[-1], shape.plane_side // shape.patch
        self.stem = nn.Conv2d(shape.latent, shape.width, 1)
        self.places = Places(1, shape.side, shape.width)
        self.first = self._blocks(shape.blocks[0], shape.width, 1)
        self.doubling = nn.ModuleList(ResBlock(*p) for p in pairwise([shape.width, *shape.widths]))
        self.patches = nn.Conv2d(last, PLANES * last, shape.patch, shape.patch)
        self.of_planes = Places(PLANES, side, last)
        self.second = self._blocks(shape.blocks[1], last, shape.reduce)
        self.pixels = nn.Linear(last, last * shape.patch**2)
        self.head = nn.Conv2d(last, shape.channels, 3, 1, 1)

    def _blocks(self, count: int, width: int, reduce: int) -> nn.Sequential:
        return nn.Sequential(*(TransformerBlock(width, self.shape.heads, reduce)
                               for _ in range(count)))  # fmt: skip

    def forward(self, latent: Tensor) -> Tensor:
        """`B C h w` -> `B 3 C S S`."""
        tokens = self.stem(latent).movedim(1, -1)[:, None]
        x = self.first(self.places(tokens))[:, 0].movedim(-1, 1)
        for block in self.doubling:
            x = block(functional.interpolate(x, scale_factor=2, mode="nearest"))
        own = self.patches(x).unflatten(1, (PLANES, -1)).movedim(2, -1)
        own = self.pixels(self.second(self.of_planes(own))).flatten(0, 1).movedim(-1, 1)
        planes = functional.pixel_shuffle(own, self.shape.patch).unflatten(0, (-1, PLANES))
        planes = torch.cat([planes[:, :1] + x[:, None], planes[:, 1:]], 1)
        out: Tensor = self.head(planes.flatten(0, 1)).unflatten(0, (-1, PLANES))
        return out


# From features to pictures


class PointNetwork(nn.Module):
    """Features of a point -> its density, and features of which the first three are a colour."""

    def __init__(self, channels: int, hidden: int, features: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(channels, hidden), nn.Linear(hidden, 1 + features)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.down(functional.softplus(self.up(x)))
        colours = found[..., 1:4].sigmoid() * 1.002 - 0.001
        return functional.softplus(found[..., 0] - 1), torch.cat([colours, found[..., 4:]], -1)


class SuperResolution(nn.Module):
    """A rendered map -> the picture: what is rendered in colour, enlarged, and what is added."""

    def __init__(self, features: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(features, widths[0], 3, 1, 1)
        self.blocks = nn.ModuleList(ResBlock(*pair) for pair in pairwise([widths[0], *widths]))
        self.head = nn.Conv2d(widths[-1], 3, 3, 1, 1)

    def forward(self, rendered: Tensor, small: Tensor) -> Tensor:
        """`B D r r` and `B 3 r r` in [-1, 1] -> `B 3 H W`; each block doubles."""
        x = self.stem(rendered)
        for block in self.blocks:
            x = block(functional.interpolate(x, scale_factor=2, mode="bilinear"))
        out: Tensor = enlarged(small, x.shape[-1]) + self.head(functional.silu(x))
        return out


def enlarged(small: Tensor, side: int) -> Tensor:
    return functional.interpolate(small, (side, side), mode="bilinear", align_corners=False)


def reduced(image: Tensor, side: int) -> Tensor:
    return functional.interpolate(
        image, (side, side), mode="bilinear", align_corners=False, antialias=True
    )
