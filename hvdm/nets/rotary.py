"""Rotary position embedding (RoFormer, arXiv 2104.09864, eq. 34) on interleaved pairs.

A pair of features is a complex number, a rotation a product with e^(i angle).
"""

import math

import torch
from torch import Tensor


def rotary_1d(length: int, head_dim: int, like: Tensor) -> Tensor:
    """`N d/2` for positions 0, 1, ...; frequencies 10000^(-2i/d) (RoFormer, section 3.2.2)."""
    pairs = torch.arange(head_dim // 2, dtype=torch.float64, device=like.device)
    positions = torch.arange(length, dtype=torch.float64, device=like.device)
    return _turn(positions[:, None] * 10000.0 ** (-2 * pairs / head_dim), like)


def rotary_2d(height: int, width: int, head_dim: int, like: Tensor) -> Tensor:
    """Axial, as in TimeSformer ports: half of the pairs turn with the row, half with the column.

    `N d/2`, N = H W row-major. Coordinates run over [-1, 1], frequencies over [pi, 5 pi].
    """
    exponents = torch.linspace(
        0, math.log2(5), head_dim // 4, dtype=torch.float64, device=like.device
    )
    rows, columns = (
        torch.linspace(-1, 1, size, dtype=torch.float64, device=like.device)[:, None]
        * (math.pi * 2**exponents)
        for size in (height, width)
    )
    shape = (height, width, head_dim // 4)
    angles = torch.cat((rows[:, None].expand(shape), columns[None].expand(shape)), -1)
    return _turn(angles.flatten(0, 1), like)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)  # there is no complex bfloat16


def _turn(angles: Tensor, like: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(angles), angles).to(_wide(like.dtype).to_complex())


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """`B N heads d` -> `B N heads d`, the pair (2i, 2i+1) turned by the token's i-th angle."""
    pairs = torch.view_as_complex(torch.unflatten(x.to(_wide(x.dtype)), -1, (-1, 2)))
    turned = pairs * rotation[:, None].to(pairs.dtype)  # N 1 d/2 over B N heads d/2
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)
