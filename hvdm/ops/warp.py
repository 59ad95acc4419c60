"""Pixels moved by their depth to where another camera sees them, without a model."""

import torch
from torch import Tensor

from hvdm.ops.cameras import Lens, rays, seen_at, turned

AT_ONCE = 1 << 11
"""Holes whose nearest pixel is looked for together."""


def warped(picture: Tensor, depth: Tensor, angles: Tensor, lens: Lens) -> Tensor:
    """`B 3 H W`, depth `B H W` along the axis, yaw and pitch `B 2` in radians -> `B 3 H W`.

    The nearest of what comes to a pixel is seen there; holes are filled from the nearest pixel.
    """
    _, _, height, width = picture.shape
    straight = turned(*torch.zeros_like(angles).unbind(1))
    origin, directions = rays(straight, lens, height, width)
    points = origin + directions * depth.flatten(1)[..., None]
    places, far = seen_at(points, turned(*angles.unbind(1)), lens)
    rows = zip(picture.flatten(2), places, far, strict=True)
    return torch.stack([_thrown(*row, height, width) for row in rows])


def _thrown(colours: Tensor, places: Tensor, far: Tensor, height: int, width: int) -> Tensor:
    """`3 N`, where each goes in [-1, 1] `N 2`, and how far it is there `N`."""
    sides = places.new_tensor([width, height])
    column, row = ((places + 1) / 2 * sides).floor().long().unbind(1)
    inside = (far > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    target, own = (row * width + column)[inside], far[inside]
    nearest = far.new_full((height * width,), torch.inf)
    nearest.scatter_reduce_(0, target, own, "amin")
    front = own == nearest[target]
    out = colours.new_zeros(3, height * width)
    out[:, target[front]] = colours[:, inside][:, front]
    return filled_from(out, nearest.isfinite(), width).unflatten(1, (height, width))


def filled_from(values: Tensor, there: Tensor, width: int) -> Tensor:
    """`C N` of a picture so wide, where not all are there: the nearest one that is."""
    if bool(there.all()) or not bool(there.any()):
        return values
    at = torch.arange(len(there), device=there.device)
    grid = torch.stack([at // width, at % width], 1).to(torch.float32)
    out = values.clone()
    for holes in at[~there].split(AT_ONCE):
        near = torch.cdist(grid[holes], grid[there]).argmin(1)
        out[:, holes] = values[:, at[there][near]]
    return out
