"""Halving and doubling with the filter [1, 3, 3, 1] along each axis, borders padded with zeros."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def _padded(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    sides = [0, 0] * (x.ndim - 1 - dim) + [before, after]
    return functional.pad(x, sides)


def halved(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Filtered, and every second place kept; each of `dims` is even."""
    for dim in dims:
        size = x.shape[dim]
        wide = _padded(x, dim, 1, 1)
        even, odd = torch.unflatten(wide, dim, (-1, 2)).unbind(dim + 1)
        outer = even.narrow(dim, 0, size // 2) + odd.narrow(dim, 1, size // 2)
        inner = odd.narrow(dim, 0, size // 2) + even.narrow(dim, 1, size // 2)
        x = (outer + 3 * inner) / 8
    return x


def doubled(x: Tensor, dims: Sequence[int]) -> Tensor:
    """A zero put behind every place, filtered, at the size of the values before."""
    for dim in dims:
        size = x.shape[dim]
        wide = _padded(x, dim, 1, 1)
        even = (wide.narrow(dim, 0, size) + 3 * x) / 4
        odd = (3 * x + wide.narrow(dim, 2, size)) / 4
        x = torch.stack((even, odd), dim + 1).flatten(dim, dim + 1)
    return x


def blurred(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Filtered with two zeros at each border: one place longer along each of `dims`."""
    for dim in dims:
        length = x.shape[dim] + 1
        wide = _padded(x, dim, 2, 2)
        a, b, c, d = (wide.narrow(dim, at, length) for at in range(4))
        x = (a + d + 3 * (b + c)) / 8
    return x
