"""Cameras that look at the origin of view space: x to the right, y down, z away from who looks.

The input view's camera stands at (0, 0, -radius). A ray's direction has length 1 along the camera's
axis, so that a place on it is a depth.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Lens:
    """How far the camera is from the origin, and its field of view in degrees, both ways."""

    radius: float = 2.7
    degrees: float = 18.0

    @property
    def reach(self) -> float:
        """Half of what is seen at depth 1."""
        return math.tan(math.radians(self.degrees) / 2)


def turned(yaw: Tensor, pitch: Tensor) -> Tensor:
    """Radians `B` -> rotations `B 3 3` of a camera on its orbit: from the right, from above."""
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)
    sideways = (yaw.cos(), zero, -yaw.sin(), zero, one, zero, yaw.sin(), zero, yaw.cos())
    upwards = (one, zero, zero, zero, pitch.cos(), pitch.sin(), zero, -pitch.sin(), pitch.cos())
    return _matrix(*sideways) @ _matrix(*upwards)


def _matrix(*values: Tensor) -> Tensor:
    return torch.stack(values, -1).unflatten(-1, (3, 3))


def rays(rotation: Tensor, lens: Lens, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rotations `B 3 3` -> origins `B 1 3` and directions `B R 3` through pixels, row by row."""
    rows, columns = (_centres(side).to(rotation) * lens.reach for side in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    straight = torch.stack([x, y, torch.ones_like(x)], -1).flatten(0, 1)
    directions = straight @ rotation.mT
    return -lens.radius * rotation[:, None, :, 2], directions


def _centres(side: int) -> Tensor:
    """Of pixels, where the picture spans [-1, 1]."""
    return (torch.arange(side, dtype=torch.float64, device="cpu") + 0.5) * (2 / side) - 1


def seen_at(points: Tensor, rotation: Tensor, lens: Lens) -> tuple[Tensor, Tensor]:
    """Points `B N 3` -> where a camera sees them, `B N 2` in [-1, 1], and their depths `B N`."""
    own = points @ rotation
    depth = own[..., 2] + lens.radius
    return own[..., :2] / (depth[..., None] * lens.reach), depth
