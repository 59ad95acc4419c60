"""2D triplane of a clip (PVDM, arXiv 2302.07685; HVDM, arXiv 2402.13729)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def broadcast_sum(hw: Tensor, tw: Tensor, th: Tensor) -> Tensor:
    """Planes `B C H W`, `B C T W`, `B C T H` -> volume `B C T H W`."""
    return hw.unsqueeze(2) + tw.unsqueeze(3) + th.unsqueeze(4)


def flat(planes: Sequence[Tensor]) -> Tensor:
    """Planes `B C h w` -> `B C N`, one behind the other."""
    return torch.cat([plane.flatten(2) for plane in planes], 2)


def planes_of(positions: Tensor, shapes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """The inverse of `flat`."""
    parts = positions.split([h * w for h, w in shapes], 2)
    return tuple(torch.unflatten(part, 2, (h, w)) for part, (h, w) in zip(parts, shapes))
