"""A function of volumes applied tile by tile, where the whole would not fit or was never trained.

Tiles overlap; in an overlap one fades into the next, so that no seam is seen.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hvdm.errors import UserError


def tiled(
    function: Callable[[Tensor], Tensor], x: Tensor, tile: Sequence[int], overlap: Sequence[int]
) -> Tensor:
    """`B E T H W` -> what `function` makes of it, `B C T' H' W'`, by tiles of this T H W.

    `function` enlarges each axis by a whole number. Besides the answer, memory is that of a tile.
    """
    sizes = [min(size, limit) for size, limit in zip(x.shape[2:], tile, strict=True)]
    if list(x.shape[2:]) == sizes:
        return function(x)
    for size, shared in zip(tile, overlap, strict=True):
        if not 0 <= shared <= size // 2:
            raise UserError(f"overlap={shared}: tiles of {size} may share from 0 to {size // 2}")
    lines = [
        starts(length, size, shared)
        for length, size, shared in zip(x.shape[2:], sizes, overlap, strict=True)
    ]
    out: Tensor | None = None
    for corner in itertools.product(*lines):
        part = function(_cut(x, corner, sizes))
        scale = [made // size for made, size in zip(part.shape[2:], sizes, strict=True)]
        if out is None:
            whole = [length * s for length, s in zip(x.shape[2:], scale, strict=True)]
            out = part.new_zeros(*part.shape[:2], *whole)
        t, h, w = (
            fade([start * s for start in line], at * s, size * s).to(part)
            for line, at, size, s in zip(lines, corner, sizes, scale, strict=True)
        )
        begins = [at * s for at, s in zip(corner, scale, strict=True)]
        _cut(out, begins, part.shape[2:]).add_(part * (t[:, None, None] * h[:, None] * w))
    assert out is not None
    return out


def starts(length: int, size: int, overlap: int) -> list[int]:
    """Where tiles begin; the last one ends with the volume, and so may share more."""
    step = size - overlap
    count = max(1, -(-(length - overlap) // step))
    return [min(i * step, length - size) for i in range(count)]


def _cut(x: Tensor, corner: Sequence[int], sizes: Sequence[int]) -> Tensor:
    for axis, (start, size) in enumerate(zip(corner, sizes, strict=True), start=2):
        x = x.narrow(axis, start, size)
    return x


def fade(line: Sequence[int], start: int, size: int) -> Tensor:
    """The share of the tile at `start` in each of its places; the shares of all tiles add up to 1.

    Each tile counts less and less from its middle to its ends.
    """
    places = torch.arange(start, start + size, dtype=torch.float64) + 0.5
    near = [_nearness(places, other, size) for other in line if abs(other - start) < size]
    return _nearness(places, start, size) / torch.stack(near).sum(0)


def _nearness(places: Tensor, start: int, size: int) -> Tensor:
    """1 in the tile's middle, falling to 0 at its ends and beyond."""
    return (1 - (places - start - size / 2).abs() / (size / 2)).clamp_min(0)
