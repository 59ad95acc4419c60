"""Transformer layers of the tokenizer and of the masked prior (Phenaki, arXiv 2210.02399).

Tokens are `B N D`, raster order of a grid of times, rows and columns.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

SHARPNESS = 8.0
"""What cosines are multiplied by before the softmax."""
Grid = tuple[int, int, int]


class CosineAttention(nn.Module):
    """Pre-norm attention by the cosine of queries and keys, with its residual.

    Keys and values come of what the norm was not applied to.
    """

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, bias=False)
        self.query = nn.Linear(width, heads * head_dim, bias=False)
        self.key_value = nn.Linear(width, 2 * heads * head_dim, bias=False)
        self.query_scale = nn.Parameter(torch.ones(head_dim))
        self.key_scale = nn.Parameter(torch.ones(head_dim))
        self.out = nn.Linear(heads * head_dim, width, bias=False)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """`B N D`, `heads N N` -> `B N D`."""
        rows = (self.query(self.norm(x)), *self.key_value(x).chunk(2, -1))
        q, k, v = (torch.unflatten(part, -1, (self.heads, -1)).transpose(1, 2) for part in rows)
        q = functional.normalize(q, dim=-1) * self.query_scale
        k = functional.normalize(k, dim=-1) * self.key_scale
        mask = None if bias is None else bias.to(q)
        found = functional.scaled_dot_product_attention(q, k, v, mask, scale=SHARPNESS)
        out: Tensor = x + self.out(found.transpose(1, 2).flatten(2))
        return out


class GatedFeedForward(nn.Module):
    """Pre-norm a GELU(b) without biases, with its residual (arXiv 2002.05202)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = int(4 * width * 2 / 3)
        self.norm = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(self.norm(x)).chunk(2, -1)
        out: Tensor = x + self.down(value * functional.gelu(gate))
        return out


class Places(nn.Module):
    """A depthwise 3x3x3 convolution over the grid, with its residual; causal: of no later time."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.padding = (1, 1, 1, 1, *((2, 0) if causal else (1, 1)))
        self.mix = nn.Conv3d(width, width, 3, groups=width)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """`B N D` -> `B N D`."""
        volume = torch.unflatten(x.transpose(1, 2), 2, grid)
        out: Tensor = x + self.mix(functional.pad(volume, self.padding)).flatten(2).transpose(1, 2)
        return out


class Offsets(nn.Module):
    """A bias of attention for how far apart two places lie, on a logarithmic scale."""

    def __init__(self, dimensions: int, width: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(*sizes) for sizes in ((dimensions, width), (width, width), (width, heads))
        )

    def forward(self, sides: tuple[int, ...], like: Tensor) -> Tensor:
        """Of all pairs of places: `heads N N`."""
        ranges = [torch.arange(1 - side, side, device=like.device) for side in sides]
        apart = torch.stack(torch.meshgrid(*ranges, indexing="ij"), -1).flatten(0, -2).to(like)
        x = apart.sign() * apart.abs().log1p()
        for number, layer in enumerate(self.layers):
            x = layer(functional.leaky_relu(x, 0.1) if number else x)
        return x[_pairs(sides, like.device)].permute(2, 0, 1)


def _pairs(sides: tuple[int, ...], device: torch.device) -> Tensor:
    """`N N`: the number of the offset between two places."""
    ranges = [torch.arange(side, device=device) for side in sides]
    places = torch.stack(torch.meshgrid(*ranges, indexing="ij"), -1).flatten(0, -2)
    number = torch.zeros(len(places), len(places), dtype=torch.long, device=device)
    for dimension, side in enumerate(sides):
        apart = places[:, None, dimension] - places[None, :, dimension]
        number = number * (2 * side - 1) + apart + side - 1
    return number


def earlier(times: int, heads: int, like: Tensor) -> Tensor:
    """`heads N N`: nothing later is seen, and what is further back less (ALiBi, 2108.12409)."""
    places = torch.arange(times, device=like.device)
    apart = places[:, None] - places
    heads_from_one = torch.arange(1, heads + 1, device=like.device)
    slopes = torch.exp2(-8.0 * heads_from_one.to(like) / heads)
    bias = -slopes[:, None, None] * apart.to(like)
    return bias.masked_fill(apart < 0, -torch.inf)


class Transformer(nn.Module):
    """Layers of attention and feed-forward, and a norm; `places`: a convolution before each."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        head_dim: int,
        places: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.places = nn.ModuleList(Places(width, causal) for _ in range(depth if places else 0))
        self.attention = nn.ModuleList(
            CosineAttention(width, heads, head_dim) for _ in range(depth)
        )
        self.feed_forward = nn.ModuleList(GatedFeedForward(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, bias=False)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """`B N D` -> `B N D`, of one kind of places alone."""
        for attention, feed_forward in self._layers():
            x = feed_forward(attention(x, bias))
        return cast(Tensor, self.norm(x))

    def over_grid(self, x: Tensor, grid: Grid, bias: Tensor) -> Tensor:
        """`B N D` -> `B N D`, all places of the grid at once."""
        for layer, (attention, feed_forward) in enumerate(self._layers()):
            if self.places:
                x = self.places[layer](x, grid)
            x = feed_forward(attention(x, bias))
        return cast(Tensor, self.norm(x))

    def over_time(self, x: Tensor, grid: Grid, bias: Tensor) -> Tensor:
        """`B N D` -> `B N D`: each site sees its own times."""
        times, sites = grid[0], grid[1] * grid[2]
        for layer, (attention, feed_forward) in enumerate(self._layers()):
            if self.places:
                x = self.places[layer](x, grid)
            rows = x.unflatten(1, (times, sites)).transpose(1, 2).flatten(0, 1)
            rows = feed_forward(attention(rows, bias)).unflatten(0, (-1, sites))
            x = rows.transpose(1, 2).flatten(1, 2)
        return cast(Tensor, self.norm(x))

    def _layers(self) -> list[tuple[nn.Module, nn.Module]]:
        return list(zip(self.attention, self.feed_forward, strict=True))
