"""Pixels moved by their depth to where another camera sees them, without a model."""

from typing import NamedTuple

import torch
from torch import Tensor

from hvdm.ops.cameras import Lens, rays, seen_at, turned

AT_ONCE = 1 << 11
"""Holes whose nearest pixel is looked for together."""


class Moved(NamedTuple):
    """Values `B C H W`, and whether any pixel came there, `B H W`."""

    values: Tensor
    there: Tensor


def moved(
    picture: Tensor, depth: Tensor, angles: Tensor, lens: Lens, aside: Tensor | None = None
) -> Moved:
    """`B C H W`, depth `B H W` along the axis, yaw and pitch `B 2` in radians.

    Of what comes to a pixel the nearest is seen there. `aside` is how far the other camera stands
    from its place on the orbit, `B 3` of view space.
    """
    _, _, height, width = picture.shape
    straight = turned(*torch.zeros_like(angles).unbind(1))
    origin, directions = rays(straight, lens, height, width)
    points = origin + directions * depth.flatten(1)[..., None]
    points = points if aside is None else points - aside[:, None]
    places, far = seen_at(points, turned(*angles.unbind(1)), lens)
    rows = zip(picture.flatten(2), places, far, strict=True)
    found = [_thrown(*row, height, width) for row in rows]
    values, there = (torch.stack(parts) for parts in zip(*found, strict=True))
    return Moved(values.unflatten(2, (height, width)), there.unflatten(1, (height, width)))


def _thrown(
    colours: Tensor, places: Tensor, far: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """`C N`, where each goes in [-1, 1] `N 2`, and how far it is there `N`."""
    sides = places.new_tensor([width, height])
    column, row = ((places + 1) / 2 * sides).floor().long().unbind(1)
    inside = (far > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    target, own = (row * width + column)[inside], far[inside]
    nearest = far.new_full((height * width,), torch.inf)
    nearest.scatter_reduce_(0, target, own, "amin")
    front = own == nearest[target]
    out = torch.zeros_like(colours)
    out[:, target[front]] = colours[:, inside][:, front]
    return out, nearest.isfinite()


def filled(found: Moved) -> Tensor:
    """Where none came, the nearest pixel to which one did."""
    return torch.stack([_filled(*row) for row in zip(*found, strict=True)])


def _filled(values: Tensor, there: Tensor) -> Tensor:
    """`C H W`, `H W`."""
    out = values.clone()
    own, holes = there.nonzero(), (~there).nonzero()
    for some in holes.split(AT_ONCE) if len(own) else ():
        near = own[torch.cdist(some.double(), own.double()).argmin(1)]
        out[:, some[:, 0], some[:, 1]] = values[:, near[:, 0], near[:, 1]]
    return out
