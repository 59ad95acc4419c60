"""A triplane looked at by a camera: rendered small, then enlarged."""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hvdm.ops.cameras import Lens, rays, turned
from hvdm.ops.volume import (
    Answer,
    Rays,
    Spacing,
    contract,
    cut_to,
    densities,
    lookup,
    render,
    stratified,
)
from hvdm.recipe import Noise
from hvdm.recipes.wildfusion.networks import PointNetwork, SuperResolution

REACH = 2
"""Planes span what the contraction leads to: a ball of twice the inner radius."""


class Look(NamedTuple):
    """`image` B 3 H W, `small` B 3 r r, `depth` B r r; weights and places of rays `B R S`."""

    image: Tensor
    small: Tensor
    depth: Tensor
    weights: Tensor
    places: Tensor


@dataclass(frozen=True)
class Camera:
    """How all pictures are looked at: the lens, rays a side, samples of each, far and near."""

    lens: Lens
    side: int
    coarse: int
    fine: int
    inner: float

    @property
    def spacing(self) -> Spacing:
        radius = self.lens.radius
        return Spacing(radius - self.inner, radius + self.inner, 20 * radius)

    def nearness(self, depth: Tensor) -> Tensor:
        """Depth as networks see it: 1 at the near end, -1 infinitely far."""
        return 1 - 2 * self.spacing.of(depth)


@dataclass(frozen=True)
class Draw:
    """Where on its parts of a ray a place is: `B R S` and `B R F` from [0, 1]."""

    coarse: Tensor
    fine: Tensor


def drawn(camera: Camera, noise: Noise, use: str) -> Draw:
    """At random, by row."""
    count = camera.side**2
    fine = noise.uniform((count, camera.fine), f"{use} fine")
    return Draw(noise.uniform((count, camera.coarse), f"{use} coarse"), stratified_or_none(fine))


def middle(camera: Camera, like: Tensor) -> Draw:
    """The middle of each part: the same for all."""
    rows, count = len(like), camera.side**2
    fine = like.new_full((rows, count, camera.fine), 0.5)
    return Draw(like.new_full((rows, count, camera.coarse), 0.5), stratified_or_none(fine))


def stratified_or_none(fine: Tensor) -> Tensor:
    return stratified(fine) if fine.shape[-1] else fine


class SceneNetwork(nn.Module):
    """Planes -> pictures, by the network of a point and the one that enlarges."""

    def __init__(self, camera: Camera, point: PointNetwork, enlarge: SuperResolution) -> None:
        super().__init__()
        self.camera, self.point, self.enlarge = camera, point, enlarge

    def answer(self, planes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density and features of points `B N 3` of view space."""
        inner = self.camera.inner
        found: tuple[Tensor, Tensor] = self.point(
            lookup(planes, contract(points, inner) / (REACH * inner))
        )
        return found

    def forward(self, planes: Tensor, angles: Tensor, draw: Draw) -> Look:
        """Seen from yaw and pitch `B 2` in radians."""
        return self.seen_along(planes, self.at(angles, draw))

    def seen_along(self, planes: Tensor, at: Rays) -> Look:
        """By rays of any camera that has this lens."""
        side = self.camera.side
        seen = render(partial(self.answer, planes), at, self.camera.spacing)
        rendered = seen.features.mT.unflatten(-1, (side, side))
        small = 2 * rendered[:, :3] - 1
        image = self.enlarge(rendered, small)
        return Look(image, small, seen.depth.unflatten(-1, (side, side)), *seen[2:])

    def at(self, angles: Tensor, draw: Draw) -> Rays:
        side = self.camera.side
        # in bf16 points would be most of a pixel away; operations are counted on the meta device
        with torch.autocast("cuda" if angles.is_cuda else "cpu", enabled=False):
            seen = rays(turned(angles[:, 0], angles[:, 1]), self.camera.lens, side, side)
        return Rays(*seen, draw.coarse, draw.fine)

    def ends(self, planes: Tensor, angles: Tensor, draw: Draw, cut: float) -> Tensor:
        """Places in [0, 1] where rays end, `B r r`, without this share of the lowest densities."""
        at, spacing = self.at(angles, draw), self.camera.spacing
        answer: Answer = partial(self.answer, planes)
        density = densities(answer, at, spacing).flatten(1)
        if taken := int(cut * density.shape[1]):
            answer = cut_to(answer, density.kthvalue(taken, dim=1).values)
        seen = render(answer, at, spacing)
        return spacing.of(seen.depth).unflatten(-1, (self.camera.side,) * 2)


def radians(yaw: float, pitch: float) -> tuple[float, float]:
    return math.radians(yaw), math.radians(pitch)


def straight(like: Tensor) -> Tensor:
    """The input view's angles, for each row."""
    return torch.zeros(len(like), 2, dtype=exact(like), device=like.device)


def exact(like: Tensor) -> torch.dtype:
    """What places are computed in, whatever the planes are in."""
    return torch.promote_types(like.dtype, torch.float32)
