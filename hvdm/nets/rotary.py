"""Rotary position embedding (RoFormer, arXiv 2104.09864, eq. 34) on interleaved pairs.

A pair of features is a complex number, a rotation a product with e^(i angle). A real table, of
cosines and sines per feature, is what the released HVDM and PVDM networks use along time.
"""

import math

import torch
from torch import Tensor


def frequencies_1d(head_dim: int) -> Tensor:
    """10000^(-2i/d) for the pairs i (RoFormer, section 3.2.2)."""
    pairs = torch.arange(head_dim // 2, dtype=torch.float64)
    return torch.as_tensor(10000.0 ** (-2 * pairs / head_dim))


def scales_2d(head_dim: int) -> Tensor:
    """From 1 to 5 in equal ratios; times pi, the frequencies of either axis."""
    return 2 ** torch.linspace(0, math.log2(5), head_dim // 4, dtype=torch.float64)


def rotary_1d(
    length: int, head_dim: int, like: Tensor, frequencies: Tensor | None = None
) -> Tensor:
    """`N d/2` for positions 0, 1, ...; feature pair i turns with frequency i."""
    return _turn(_angles_1d(length, head_dim, like, frequencies), like)


def halved_1d(length: int, head_dim: int, like: Tensor, frequencies: Tensor) -> Tensor:
    """`2 N d`: cosines and sines with the frequencies laid out twice in a row.

    The two features of a pair then have different frequencies, which is no rotation; the released
    weights were trained with it.
    """
    angles = _angles_1d(length, head_dim, like, frequencies).repeat(1, 2)
    return torch.stack((angles.cos(), angles.sin())).to(_wide(like.dtype))


def _angles_1d(length: int, head_dim: int, like: Tensor, frequencies: Tensor | None) -> Tensor:
    chosen = frequencies_1d(head_dim) if frequencies is None else frequencies
    positions = torch.arange(length, dtype=torch.float64, device=like.device)
    return positions[:, None] * chosen.to(like.device, torch.float64)


def rotary_2d(
    height: int, width: int, head_dim: int, like: Tensor, scales: Tensor | None = None
) -> Tensor:
    """Axial, as in TimeSformer ports: half of the pairs turn with the row, half with the column.

    `N d/2`, N = H W row-major. Coordinates run over [-1, 1], frequencies over [pi, 5 pi].
    """
    chosen = (scales_2d(head_dim) if scales is None else scales).to(like.device, torch.float64)
    rows, columns = (
        torch.linspace(-1, 1, size, dtype=torch.float64, device=like.device)[:, None]
        * (math.pi * chosen)
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
    pairs = torch.unflatten(x.to(_wide(x.dtype)), -1, (-1, 2))
    if not rotation.is_complex():
        cosine, sine = rotation[:, :, None].to(pairs.dtype)
        across = torch.stack((-pairs[..., 1], pairs[..., 0]), -1).flatten(-2)
        return (pairs.flatten(-2) * cosine + across * sine).to(x.dtype)
    turned = torch.view_as_complex(pairs) * rotation[:, None].to(pairs.dtype.to_complex())
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)
