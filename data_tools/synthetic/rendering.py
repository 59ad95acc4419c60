"""Clips to learn from without any download: textured shapes that move, turn, scale and occlude.

Each clip is a function of (seed, index). Its class is the kind of the shape in front; its motion
strength scales every speed, so both are known exactly. Time counts in units of 16 frames: a longer
clip goes on where a shorter one ends, and a larger one shows the same scene.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_tools.synthetic.outlines import SHAPES, Floats
from hvdm import rng

FRAMES_PER_UNIT = 16
SMALL = 96
"""Below this size pixels are averages of 2 x 2, or textures would alias."""


CLASSES = tuple(SHAPES)
TEXTURES = ("striped", "checkered", "cloudy", "shaded")
PATHS = ("bouncing", "circling", "swaying")
HUES = {
    "red": (224, 58, 62),
    "orange": (240, 142, 44),
    "yellow": (245, 214, 66),
    "green": (74, 170, 92),
    "teal": (42, 170, 178),
    "blue": (58, 108, 216),
    "violet": (142, 84, 204),
    "white": (238, 236, 228),
}


class Rendered(NamedTuple):
    """A clip `T H W C`, its class, its motion strength in [0, 1], and what it shows in words.

    `parts` and `facts` are what else is known of it, for its sample and its json.
    """

    video: npt.NDArray[np.uint8]
    label: int
    strength: float
    description: str
    parts: Mapping[str, bytes] = MappingProxyType({})
    facts: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Texture:
    """A pattern of two colours in coordinates that move with what it is on."""

    kind: str
    dark: Floats
    light: Floats
    frequency: float
    lattice: Floats

    def paint(self, x: Floats, y: Floats) -> Floats:
        return np.asarray(self.dark + (self.light - self.dark) * self._mix(x, y)[..., None])

    def _mix(self, x: Floats, y: Floats) -> Floats:
        waves = self.frequency * math.pi
        if self.kind == "striped":
            return np.asarray(0.5 + 0.5 * np.tanh(2.5 * np.sin(waves * x)))
        if self.kind == "checkered":
            return np.asarray(0.5 + 0.5 * np.tanh(5 * np.sin(waves * x) * np.sin(waves * y)))
        if self.kind == "cloudy":
            coarse = noise(self.lattice, x * self.frequency, y * self.frequency)
            fine = noise(self.lattice.T, x * 2.7 * waves, y * 2.7 * waves)
            return np.asarray(0.65 * coarse + 0.35 * fine)
        return np.asarray(np.clip(0.5 + 0.5 * x, 0, 1))


def noise(lattice: Floats, x: Floats, y: Floats) -> Floats:
    """Smooth values in [0, 1] between the points of a periodic lattice."""
    size = len(lattice)
    left, top = np.floor(x), np.floor(y)
    u, v = x - left, y - top
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    i, j = left.astype(np.int64) % size, top.astype(np.int64) % size
    right, below = (i + 1) % size, (j + 1) % size
    upper = lattice[j, i] * (1 - u) + lattice[j, right] * u
    lower = lattice[below, i] * (1 - u) + lattice[below, right] * u
    return np.asarray(upper * (1 - v) + lower * v)


@dataclass(frozen=True)
class Actor:
    """A shape with its texture and the course that it takes; the frame spans [-1, 1]."""

    kind: str
    hue: str
    path: str
    texture: Texture
    size: float
    place: tuple[float, float]
    velocity: tuple[float, float]
    angle: float
    spin: float
    pulse: float
    phase: float

    def pose(self, time: float) -> tuple[float, float, float, float]:
        """Where it is, how it is turned, how large it is."""
        x, y = self._position(time)
        size = self.size * (1 + 0.25 * math.sin(self.phase + self.pulse * time))
        return x, y, self.angle + self.spin * time, size

    def _position(self, time: float) -> tuple[float, float]:
        (x, y), (across, along) = self.place, self.velocity
        if self.path == "bouncing":
            return reflect(x + across * time), reflect(y + along * time)
        turn = self.phase + 4 * math.hypot(across, along) * time
        if self.path == "circling":
            return 0.7 * x + 0.4 * math.cos(turn), 0.7 * y + 0.4 * math.sin(turn)
        sway = 0.6 * math.sin(turn)
        heading = math.atan2(along, across)
        return 0.6 * x + sway * math.cos(heading), 0.6 * y + sway * math.sin(heading)


def reflect(value: float, limit: float = 0.75) -> float:
    """A straight course that bounces off the limits."""
    within = (value + limit) % (4 * limit)
    return (within if within <= 2 * limit else 4 * limit - within) - limit


@dataclass(frozen=True)
class Scene:
    """All that a clip shows; the last actor is in front and names the class."""

    background: Texture
    drift: tuple[float, float]
    actors: tuple[Actor, ...]
    strength: float


def render(seed: int, index: int, frames: int, height: int, width: int) -> Rendered:
    """Clip number `index` of the endless set of this seed."""
    scene = compose(rng.numpy_generator(seed, index, "synthetic"))
    video = np.empty((frames, height, width, 3), np.uint8)
    for frame in range(frames):
        video[frame] = draw(scene, frame / FRAMES_PER_UNIT, height, width)
    label = CLASSES.index(scene.actors[-1].kind)
    return Rendered(video, label, scene.strength, describe(scene))


def describe(scene: Scene) -> str:
    front = scene.actors[-1]
    others = ", ".join(f"{_with_article(actor.hue)} {actor.kind}" for actor in scene.actors[-2::-1])
    return f"a {front.texture.kind} {front.hue} {front.kind}, {front.path}, in front of {others}"


def _with_article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def compose(random: np.random.Generator) -> Scene:
    strength = float(random.uniform())
    hues = list(random.permutation(list(HUES)))
    background = _background(random, HUES[hues.pop()])
    heading = random.uniform(0, 2 * math.pi)
    speed = 0.6 * strength
    behind = int(random.integers(1, 4))
    actors = [_actor(random, hues.pop(), strength, (0.24, 0.42)) for _ in range(behind)]
    actors.append(_actor(random, hues.pop(), strength, (0.42, 0.6)))
    drift = (speed * math.cos(heading), speed * math.sin(heading))
    return Scene(background, drift, tuple(actors), strength)


def _background(random: np.random.Generator, hue: tuple[int, int, int]) -> Texture:
    tint = np.array(hue, np.float32)
    dark, light = 0.12 * tint + 14, 0.42 * tint + 34
    kind = ("cloudy", "cloudy", "striped", "checkered")[int(random.integers(4))]
    lattice = random.random((16, 16), dtype=np.float32)
    return Texture(kind, dark, light, float(random.uniform(2.0, 3.2)), lattice)


def _actor(
    random: np.random.Generator, hue: str, strength: float, sizes: tuple[float, float]
) -> Actor:
    light = np.array(HUES[hue], np.float32)
    lattice = random.random((16, 16), dtype=np.float32)
    kind = TEXTURES[int(random.integers(len(TEXTURES)))]
    texture = Texture(kind, 0.38 * light, light, float(random.uniform(1.6, 2.6)), lattice)
    heading, speed = random.uniform(0, 2 * math.pi), strength * random.uniform(0.5, 1.0)
    return Actor(
        kind=CLASSES[int(random.integers(len(CLASSES)))],
        hue=hue,
        path=PATHS[int(random.integers(len(PATHS)))],
        texture=texture,
        size=float(random.uniform(*sizes)),
        place=(float(random.uniform(-0.7, 0.7)), float(random.uniform(-0.7, 0.7))),
        velocity=(speed * math.cos(heading), speed * math.sin(heading)),
        angle=float(random.uniform(0, 2 * math.pi)),
        spin=float(random.choice([-1, 1]) * random.uniform(0.4, 2.2) * strength),
        pulse=float(random.uniform(0.5, 3.0) * strength),
        phase=float(random.uniform(0, 2 * math.pi)),
    )


def draw(scene: Scene, time: float, height: int, width: int) -> npt.NDArray[np.uint8]:
    """One frame of a scene."""
    fine = 2 if min(height, width) < SMALL else 1
    x, y, pixel = _grid(height * fine, width * fine)
    across, along = scene.drift
    image = scene.background.paint(x + across * time, y + along * time)
    for actor in scene.actors:
        image = _over(image, actor, time, x, y, pixel)
    if fine > 1:
        image = image.reshape(height, fine, width, fine, 3).mean(axis=(1, 3))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _grid(height: int, width: int) -> tuple[Floats, Floats, float]:
    """Coordinates of pixel centres, the shorter side from -1 to 1, and the size of a pixel."""
    pixel = 2 / min(height, width)
    rows = ((np.arange(height) + 0.5 - height / 2) * pixel).astype(np.float32)
    columns = ((np.arange(width) + 0.5 - width / 2) * pixel).astype(np.float32)
    x, y = np.meshgrid(columns, rows)
    return x, y, pixel


def _over(image: Floats, actor: Actor, time: float, x: Floats, y: Floats, pixel: float) -> Floats:
    """The image with a shape, its shadow under it, its rim darker than its middle."""
    left, top, angle, size = actor.pose(time)
    cos, sin = math.cos(angle) / size, math.sin(angle) / size
    distance = SHAPES[actor.kind]

    def local(right: float, down: float) -> tuple[Floats, Floats]:
        dx, dy = x - left - right, y - top - down
        return cos * dx + sin * dy, cos * dy - sin * dx

    shadow = np.clip(0.5 - distance(*local(0.05, 0.08)) / 0.25, 0, 1) * 0.45
    u, v = local(0.0, 0.0)
    inside = distance(u, v)
    cover = np.clip(0.5 - inside * size / pixel, 0, 1)[..., None]
    shade = 0.72 + 0.28 * np.clip(-inside / 0.22, 0, 1)
    return image * (1 - shadow[..., None]) * (1 - cover) + actor.texture.paint(u, v) * (
        shade[..., None] * cover
    )
