"""One-level orthonormal Haar DWT along time, space, or both (HVDM, arXiv 2402.13729).

Letter 1 of a band is time, 2 height, 3 width, so 3D bands run LLL, LLH, LHL, ... HHH.
"""

import math

import torch
from torch import Tensor

TIME = (2,)
SPACE = (3, 4)
SPACE_TIME = (2, 3, 4)


def _split(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    even, odd = torch.unflatten(x, dim, (-1, 2)).unbind(dim + 1)
    return (even + odd).div_(math.sqrt(2)), (even - odd).div_(math.sqrt(2))


def _merge(low: Tensor, high: Tensor, dim: int) -> Tensor:
    pairs = torch.stack((low + high, low - high), dim + 1)
    return pairs.flatten(dim, dim + 1).div_(math.sqrt(2))


def haar(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """`B C ...` -> `B K C ...`, K = 2^len(dims) bands; each of `dims`, of even size, is halved."""
    bands = [x]
    for dim in dims:
        bands = [half for band in bands for half in _split(band, dim)]
    return torch.stack(bands, 1)


def inverse_haar(bands: Tensor, dims: tuple[int, ...]) -> Tensor:
    """`B K C ...` -> `B C ...`: the exact inverse of `haar` with the same `dims`."""
    parts = list(bands.unbind(1))
    for dim in reversed(dims):
        parts = [_merge(low, high, dim) for low, high in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def haar3d(video: Tensor) -> Tensor:
    """`B C T H W` -> `B 8 C T/2 H/2 W/2`."""
    return haar(video, SPACE_TIME)


def inverse_haar3d(bands: Tensor) -> Tensor:
    """`B 8 C T/2 H/2 W/2` -> `B C T H W`."""
    return inverse_haar(bands, SPACE_TIME)
