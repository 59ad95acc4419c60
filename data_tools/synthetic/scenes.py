"""Pictures of solids with their exact depth, and what other cameras see of the same scene.

Spheres, boxes and cones on a floor or before a far background, traced ray by ray. The viewpoint is
random; view space is that of `hvdm.ops.cameras`, the first solid lies near its origin, and its kind
is the class.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from data_tools.synthetic.outlines import Floats
from data_tools.synthetic.rendering import HUES, SMALL, TEXTURES, Rendered, Texture
from hvdm import rng
from hvdm.ops.cameras import Lens, rays, seen_at, turned

SCENE_CLASSES = ("sphere", "box", "cone")
LENS = Lens(2.7, 30.0)
VIEWS = ((-30.0, 0.0), (-15.0, 0.0), (15.0, 0.0), (30.0, 0.0))
"""Yaw and pitch in degrees of what is kept for evaluation."""
FAR = 4.0
"""Radius of the background around the origin."""
LIGHT = np.array([-0.48, -0.64, -0.6])
"""Towards the light, from the scene."""
NOTHING = np.inf
JUST_BEHIND = 1e-3


class Hit(NamedTuple):
    """Where rays `N` meet a thing first, its normal there, and coordinates of its texture."""

    depth: Floats
    normal: Floats
    across: Floats
    along: Floats


@dataclass(frozen=True)
class Solid:
    """Upright, turned about the vertical; `place` is its middle."""

    kind: str
    texture: Texture
    size: float
    place: tuple[float, float, float]
    angle: float


@dataclass(frozen=True)
class SolidScene:
    """`floor` is its height (y grows downwards), None where there is only the background."""

    solids: tuple[Solid, ...]
    floor: float | None
    ground: Texture
    sky: Texture
    yaw: float
    pitch: float


class Traced(NamedTuple):
    """Colours `N 3` and depths `N` along the camera's axis."""

    colours: Floats
    depth: Floats


class Pictured(NamedTuple):
    """A scene's picture, its depth `H W`; `views` `V H W 3`, and what of them the picture shows."""

    picture: Rendered
    depth: Floats
    views: Floats
    seen: Floats


def picture(seed: int, index: int, height: int, width: int, views: bool) -> Pictured:
    """Scene number `index` of the endless set of this seed; without `views` there are none."""
    scene = compose(rng.numpy_generator(seed, index, "scenes"))
    front = scene.solids[0]
    label = SCENE_CLASSES.index(front.kind)
    words = f"a {front.texture.kind} {front.kind}" + ("" if scene.floor is None else " on a floor")
    image = photograph(scene, 0.0, 0.0, height, width)
    depth = _trace(scene, 0.0, 0.0, height, width).depth.reshape(height, width)
    others = VIEWS if views else ()
    return Pictured(
        Rendered(image[None], label, 0.0, words),
        depth.astype(np.float32),
        np.array([photograph(scene, *view, height, width) for view in others], np.uint8),
        np.array([visible(scene, *view, height, width) for view in others], bool),
    )


def compose(random: np.random.Generator) -> SolidScene:
    hues = list(random.permutation(list(HUES)))
    size = float(random.uniform(0.3, 0.42))
    floor = size if random.uniform() < 0.7 else None
    solids = [_solid(random, hues.pop(), size, (0.0, 0.0))]
    for _ in range(int(random.integers(3))):
        heading, away = random.uniform(0, 2 * math.pi), random.uniform(0.6, 0.85)
        beside = (away * math.cos(heading), away * math.sin(heading))
        small = float(random.uniform(0.12, 0.2))
        lift = 0.0 if floor is None else floor - small
        solids.append(_solid(random, hues.pop(), small, beside, lift))
    ground, sky = (_texture(random, hues.pop(), 0.75, 3.0), _texture(random, hues.pop(), 0.55, 2.0))
    yaw, pitch = random.uniform(0, 360), random.uniform(8, 28)
    return SolidScene(tuple(solids), floor, ground, sky, float(yaw), float(pitch))


def _solid(
    random: np.random.Generator,
    hue: str,
    size: float,
    beside: tuple[float, float],
    lift: float = 0.0,
) -> Solid:
    kind = SCENE_CLASSES[int(random.integers(len(SCENE_CLASSES)))]
    texture = _texture(random, hue, 1.0, 2.0)
    place = (beside[0], lift, beside[1])
    return Solid(kind, texture, size, place, float(random.uniform(0, 2 * math.pi)))


def _texture(random: np.random.Generator, hue: str, bright: float, frequency: float) -> Texture:
    light = bright * np.array(HUES[hue], np.float32)
    lattice = random.random((16, 16), dtype=np.float32)
    kind = TEXTURES[int(random.integers(len(TEXTURES)))]
    return Texture(kind, 0.45 * light, light, frequency, lattice)


# Cameras


def photograph(scene: SolidScene, yaw: float, pitch: float, height: int, width: int) -> Floats:
    """uint8 `H W 3` from a camera on the orbit; degrees from the scene's own viewpoint."""
    fine = 2 if min(height, width) < SMALL else 1
    colours = _trace(scene, yaw, pitch, height * fine, width * fine).colours
    image = colours.reshape(height, fine, width, fine, 3).mean((1, 3))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _trace(scene: SolidScene, yaw: float, pitch: float, height: int, width: int) -> Traced:
    origin, directions = rays(_rotation(yaw, pitch), LENS, height, width)
    return trace(scene, origin[0].numpy(), directions[0].numpy())


def _rotation(yaw: float, pitch: float) -> torch.Tensor:
    angles = torch.tensor([[yaw], [pitch]], dtype=torch.float64).deg2rad()
    return turned(angles[0], angles[1])


def trace(scene: SolidScene, origins: Floats, directions: Floats) -> Traced:
    """Rays `N 3` of view space, from origins `1 3`."""
    around = _rotation(scene.yaw, scene.pitch)[0].numpy()
    origin, way = origins @ around.T, directions @ around.T
    things = [(solid.texture, MEETING[solid.kind](solid, origin, way)) for solid in scene.solids]
    if scene.floor is not None:
        things.append((scene.ground, _floor(scene.floor, origin, way)))
    things.append((scene.sky, _background(origin, way)))
    nearest = np.argmin([hit.depth for _, hit in things], 0)
    colours = np.empty_like(way)
    depth = np.empty(len(way))
    towards = around @ LIGHT
    for number, (texture, hit) in enumerate(things):
        own = nearest == number
        plain = 1.0 if texture is scene.sky else _shade(hit.normal[own], towards)
        colours[own] = texture.paint(hit.across[own], hit.along[own]) * plain
        depth[own] = hit.depth[own]
    return Traced(colours, depth)


def _shade(normal: Floats, towards: Floats) -> Floats:
    return np.asarray(0.55 + 0.45 * np.clip(normal @ towards, 0, 1))[:, None]


def visible(scene: SolidScene, yaw: float, pitch: float, height: int, width: int) -> Floats:
    """`H W`: whether the picture shows what another camera sees there."""
    rotation = _rotation(yaw, pitch)
    origin, directions = rays(rotation, LENS, height, width)
    depth = trace(scene, origin[0].numpy(), directions[0].numpy()).depth
    points = origin[0] + directions[0] * torch.from_numpy(depth)[:, None]
    straight = _rotation(0.0, 0.0)
    places, own = seen_at(points[None], straight, LENS)
    start = rays(straight, LENS, 1, 1)[0][0]
    again = trace(scene, start.numpy(), ((points - start) / own[0, :, None]).numpy()).depth
    inside = (places[0].abs() <= 1).all(-1).numpy() & (own[0].numpy() > 0)
    return np.asarray(inside & (again >= own[0].numpy() - JUST_BEHIND)).reshape(height, width)


# Where rays meet things; `depth` is NOTHING where they do not


def _first(depths: list[Floats], good: list[Floats]) -> Floats:
    """The smallest of those that are good and in front."""
    found = [np.where(ok & (at > 1e-9), at, NOTHING) for at, ok in zip(depths, good, strict=True)]
    return np.asarray(np.min(found, 0))


def _roots(a: Floats, b: Floats, c: Floats) -> tuple[Floats, Floats, Floats]:
    """Of a t^2 + 2 b t + c, and whether there are any."""
    inside = b * b - a * c
    root = np.sqrt(np.maximum(inside, 0))
    safe = np.where(np.abs(a) < 1e-12, 1e-12, a)
    return (-b - root) / safe, (-b + root) / safe, inside >= 0


def _own(solid: Solid, origin: Floats, way: Floats) -> tuple[Floats, Floats, Floats]:
    """Rays in a solid's own coordinates of size 1, and the rotation back."""
    cos, sin = math.cos(solid.angle), math.sin(solid.angle)
    turn = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    own = np.broadcast_to((origin - np.array(solid.place)) @ turn / solid.size, way.shape)
    return own, way @ turn / solid.size, turn


def _sphere(solid: Solid, origin: Floats, way: Floats) -> Hit:
    o, d, turn = _own(solid, origin, way)
    near, far, there = _roots((d * d).sum(1), (o * d).sum(1), (o * o).sum(1) - 1)
    depth = _first([near, far], [there, there])
    at = _points(o, d, depth)
    return Hit(depth, at @ turn.T, np.arctan2(at[:, 0], at[:, 2]), at[:, 1])


def _points(o: Floats, d: Floats, depth: Floats) -> Floats:
    return np.asarray(o + d * np.where(np.isfinite(depth), depth, 0)[:, None])


def _box(solid: Solid, origin: Floats, way: Floats) -> Hit:
    o, d, turn = _own(solid, origin, way)
    half = np.array([0.8, 1.0, 0.8])
    safe = np.where(np.abs(d) < 1e-12, 1e-12, d)
    first, second = (-half - o) / safe, (half - o) / safe
    enter, leave = np.minimum(first, second), np.maximum(first, second)
    near, far = enter.max(1), leave.min(1)
    depth = _first([near], [near <= far])
    at = _points(o, d, depth)
    side = enter.argmax(1)
    normal = np.where(np.arange(3) == side[:, None], -np.sign(d), 0.0)
    across = np.where(side == 0, at[:, 2], at[:, 0])
    along = np.where(side == 1, at[:, 2], at[:, 1])
    return Hit(depth, normal @ turn.T, across, along)


def _cone(solid: Solid, origin: Floats, way: Floats) -> Hit:
    """Its tip at y = -1, its base of radius 1 at y = 1."""
    o, d, turn = _own(solid, origin, way)
    tip = o + np.array([0.0, 1.0, 0.0])
    slope = np.array([1.0, -0.25, 1.0])
    near, far, there = _roots((slope * d * d).sum(1), (slope * tip * d).sum(1),
                              (slope * tip * tip).sum(1))  # fmt: skip
    heights = [o[:, 1] + d[:, 1] * at for at in (near, far)]
    flank = [there & (h >= -1) & (h <= 1) for h in heights]
    level = np.where(np.abs(d[:, 1]) < 1e-12, 1e-12, d[:, 1])
    base = (1 - o[:, 1]) / level
    round_ = ((o + d * base[:, None])[:, [0, 2]] ** 2).sum(1) <= 1
    depth = _first([near, far, base], [*flank, round_])
    at = _points(o, d, depth)
    below = depth == base
    normal = at * slope + np.array([0.0, -0.25, 0.0])
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    normal = np.where(below[:, None], np.array([0.0, 1.0, 0.0]), normal)
    across = np.where(below, at[:, 0], np.arctan2(at[:, 0], at[:, 2]))
    return Hit(depth, normal @ turn.T, across, np.where(below, at[:, 2], at[:, 1]))


def _floor(level: float, origin: Floats, way: Floats) -> Hit:
    down = np.where(np.abs(way[:, 1]) < 1e-12, 1e-12, way[:, 1])
    at = (level - origin[:, 1]) / down
    depth = _first([at], [np.ones(len(way), bool)])
    points = _points(np.broadcast_to(origin, way.shape), way, depth)
    normal = np.broadcast_to(np.array([0.0, -1.0, 0.0]), way.shape)
    return Hit(depth, normal, points[:, 0], points[:, 2])


def _background(origin: Floats, way: Floats) -> Hit:
    o = np.broadcast_to(origin, way.shape)
    _, depth, _ = _roots((way * way).sum(1), (o * way).sum(1), (o * o).sum(1) - FAR**2)
    at = _points(o, way, depth) / FAR
    return Hit(depth, -at, np.arctan2(at[:, 0], at[:, 2]), at[:, 1])


MEETING = {"sphere": _sphere, "box": _box, "cone": _cone}
