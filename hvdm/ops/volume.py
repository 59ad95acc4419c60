"""Volume rendering of a triplane: contraction, places on rays, weights (NeRF, arXiv 2003.08934).

Planes are `B 3 C S S` for (x, y), (x, z) and (y, z), y and z along the rows: EG3D's released code
has (x, z) twice and no (y, z). Places along a ray are depths `B R S`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

AXES = ((0, 1), (0, 2), (1, 2))
EVEN = 0.01
"""A share of the finer places that is spread evenly, so that no bin is without hope."""

Answer = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points `B N 3` -> density `B N` and features `B N D`."""


# Space


def contract(points: Tensor, inner: float = 1.0, more: float = 1.0) -> Tensor:
    """The whole of space into a ball of (1 + more) inner, the inner ball as it is.

    With more = 1 the contraction of mip-NeRF 360 (arXiv 2111.12077, eq. 10).
    """
    length = (torch.linalg.vector_norm(points, dim=-1, keepdim=True) / inner).clamp_min(1)
    return points * ((1 + more - more / length) / length)


def expand(points: Tensor, inner: float = 1.0, more: float = 1.0) -> Tensor:
    """The inverse of `contract`."""
    length = (torch.linalg.vector_norm(points, dim=-1, keepdim=True) / inner).clamp_min(1)
    return points * (more / (1 + more - length) / length)


def lookup(planes: Tensor, points: Tensor) -> Tensor:
    """Points `B N 3` in [-1, 1], held there -> the mean of three bilinear samples, `B N C`."""
    rows, _, channels, side, _ = planes.shape
    at = ((points + 1) * (side / 2) - 0.5).clamp(0, side - 1)
    low = at.detach().floor().clamp(max=side - 2)
    share, low = at - low, low.long()
    places, shares = [], []
    for plane, (across, down) in enumerate(AXES):
        u, v = share[..., across], share[..., down]
        corner = (plane * side + low[..., down]) * side + low[..., across]
        places += [corner, corner + 1, corner + side, corner + side + 1]
        shares += [(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v]
    start = torch.arange(rows, device=points.device)[:, None, None] * (len(AXES) * side * side)
    found = functional.embedding_bag(
        (torch.stack(places, -1) + start).flatten(0, 1),
        planes.movedim(2, -1).reshape(-1, channels),
        per_sample_weights=(torch.stack(shares, -1) / len(AXES)).flatten(0, 1).to(planes.dtype),
        mode="sum",
    )
    return found.unflatten(0, (rows, -1))


# Places on rays


@dataclass(frozen=True)
class Spacing:
    """Places on a ray as [0, 1]: the first half even in depth, the second in 1 / depth."""

    near: float
    middle: float
    far: float

    def at(self, s: Tensor) -> Tensor:
        """Depths of places."""
        inner = self.near + 2 * s * (self.middle - self.near)
        share = (2 * s - 1).clamp(0, 1)
        outer = 1 / ((1 - share) / self.middle + share / self.far)
        return torch.where(s < 0.5, inner, outer)

    def of(self, depth: Tensor) -> Tensor:
        """Places of depths; the inverse of `at`, held in [0, 1]."""
        inner = (depth - self.near) / (2 * (self.middle - self.near))
        gone = 1 / self.middle - 1 / depth.clamp_min(self.middle)
        outer = 0.5 + gone / (2 * (1 / self.middle - 1 / self.far))
        return torch.where(depth < self.middle, inner, outer).clamp(0, 1)


def stratified(drawn: Tensor) -> Tensor:
    """`… S` drawn from [0, 1] -> one place in each of S even parts of [0, 1]."""
    count = drawn.shape[-1]
    first = torch.arange(count, device=drawn.device, dtype=drawn.dtype)
    return (first + drawn) / count


def finer(places: Tensor, weights: Tensor, drawn: Tensor) -> Tensor:
    """More places `B R F` where the weights of `B R S` are, by the inverse of their sums."""
    edges = functional.pad((places[..., 1:] + places[..., :-1]) / 2, (1, 1))
    edges[..., 0], edges[..., -1] = places[..., 0], places[..., -1]
    share = weights + EVEN / weights.shape[-1]
    sums = functional.pad(share.cumsum(-1), (1, 0))
    sums = sums / sums[..., -1:]
    bins = torch.searchsorted(sums, drawn.contiguous(), right=True) - 1
    bins = bins.clamp(0, weights.shape[-1] - 1)
    low, high = sums.gather(-1, bins), sums.gather(-1, bins + 1)
    within = ((drawn - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    begin, end = edges.gather(-1, bins), edges.gather(-1, bins + 1)
    return begin + within * (end - begin)


def ray_weights(density: Tensor, depths: Tensor, far: float, stretch: Tensor) -> Tensor:
    """How much of a ray ends at each of its depths; `stretch` is a ray's length per depth."""
    steps = torch.diff(depths, append=torch.full_like(depths[..., :1], far)).clamp_min(0)
    thickness = density * steps * stretch[..., None]
    before = functional.pad(thickness.cumsum(-1)[..., :-1], (1, 0))
    return torch.exp(-before) * -torch.expm1(-thickness)


# Rendering


class Rays(NamedTuple):
    """Of a batch of rays: origins `B 1 3`, directions `B R 3`, what was drawn `B R S`, `B R F`."""

    origins: Tensor
    directions: Tensor
    coarse: Tensor
    fine: Tensor


class Seen(NamedTuple):
    """Features `B R D`, depth `B R`; weights and places `B R S` of what they are sums of."""

    features: Tensor
    depth: Tensor
    weights: Tensor
    places: Tensor


def render(answer: Answer, rays: Rays, spacing: Spacing, at_once: int = 1 << 16) -> Seen:
    """Coarse places, finer ones where the coarse found something, and sums over both.

    About `at_once` points are asked for together. With gradients, what they need is computed again
    part by part (arXiv 1604.06174); each point is asked for once in either pass.
    """
    rows, count, coarse = rays.coarse.shape
    size = max(1, at_once // (rows * (coarse + rays.fine.shape[-1])))
    parts = zip(*(whole.split(size, 1) for whole in rays[1:]), strict=True)
    seen = [_part(answer, spacing, Rays(rays.origins, *part)) for part in parts]
    return Seen(*(torch.cat(values, 1) for values in zip(*seen, strict=True)))


def _part(answer: Answer, spacing: Spacing, rays: Rays) -> Seen:
    if not torch.is_grad_enabled():
        return march(answer, spacing, rays)
    seen = checkpoint(march, answer, spacing, rays, use_reentrant=False, preserve_rng_state=False)
    return Seen(*seen)


def march(answer: Answer, spacing: Spacing, rays: Rays) -> Seen:
    """`render` of all rays together."""
    stretch = torch.linalg.vector_norm(rays.directions, dim=-1)
    places = stratified(rays.coarse)
    density, features = _asked(answer, spacing, rays, places)
    if rays.fine.shape[-1]:
        with torch.no_grad():
            weights = ray_weights(density, spacing.at(places), spacing.far, stretch)
            more = finer(places, weights, rays.fine)
        found = _asked(answer, spacing, rays, more)
        places, order = torch.cat([places, more], -1).sort(-1)
        density = torch.cat([density, found[0]], -1).gather(-1, order)
        features = torch.cat([features, found[1]], -2).gather(
            -2, order[..., None].expand(*order.shape, features.shape[-1])
        )
    depths = spacing.at(places)
    weights = ray_weights(density, depths, spacing.far, stretch)
    summed = (weights[..., None] * features).sum(-2)
    return Seen(summed, mean_depth(weights, depths), weights, places)


def densities(answer: Answer, rays: Rays, spacing: Spacing) -> Tensor:
    """Of the coarse places, `B R S`."""
    return _asked(answer, spacing, rays, stratified(rays.coarse))[0]


def cut_to(answer: Answer, level: Tensor) -> Answer:
    """Without densities up to a level `B`: haze, which hides how flat things are."""

    def answered(points: Tensor) -> tuple[Tensor, Tensor]:
        density, features = answer(points)
        return torch.where(density <= level[:, None], 0, density), features

    return answered


def mean_depth(weights: Tensor, depths: Tensor) -> Tensor:
    """Where a ray ends on average, of those that end."""
    return (weights * depths).sum(-1) / weights.sum(-1).clamp_min(1e-6)


def _asked(answer: Answer, spacing: Spacing, rays: Rays, places: Tensor) -> tuple[Tensor, Tensor]:
    along = spacing.at(places)[..., None] * rays.directions[:, :, None]
    points = rays.origins[:, :, None] + along
    density, features = answer(points.flatten(1, 2))
    return density.unflatten(1, places.shape[1:]), features.unflatten(1, places.shape[1:])


# Distances of depth, one value for each row


def aligned_error(depth: Tensor, target: Tensor) -> Tensor:
    """`B R` twice: mean square of s depth + t - target, with the s and t that make it smallest."""
    x, y = (value - value.mean(1, keepdim=True) for value in (depth, target))
    slope = (x * y).mean(1) / x.square().mean(1).clamp_min(1e-12)
    return (slope[:, None] * x - y).square().mean(1)


def off_surface(weights: Tensor, places: Tensor, target: Tensor, band: float) -> Tensor:
    """What of a ray's weight is not within `band` of the target place `B R`, squared, twice.

    (1 - w in)^2 + (w out)^2, the nearest sample being within always: a mean depth that is right
    does not say that there is a surface.
    """
    away = (places - target[..., None]).abs()
    within = away <= torch.maximum(away.amin(-1, keepdim=True), away.new_tensor(band))
    inside = (weights * within).sum(-1)
    outside = (weights * ~within).sum(-1)
    return ((1 - inside).square() + outside.square()).mean(1)


BINS = 64


def non_flatness(places: Tensor) -> Tensor:
    """`B N` in [0, 1] -> from 1, all in one of 64 bins, to 64, evenly in all of them (3DGP's NFS).

    exp of the entropy of the histogram.
    """
    bins = (places.detach() * BINS).long().clamp(0, BINS - 1)
    own = bins[..., None] == torch.arange(BINS, device=bins.device)
    return torch.special.entr(own.to(places.dtype).mean(1)).sum(1).exp()
