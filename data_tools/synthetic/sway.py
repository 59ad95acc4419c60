"""Rooted things that sway in the wind over a still ground, with the motion that they have.

A thing bends across the direction that it grows in, more the further from its root: what is moved
keeps its height over the root, so where each pixel came from is known exactly. Each mode is a
damped oscillation that gusts of wind set going; the bands of the four kinds do not overlap.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from data_tools.synthetic.outlines import Floats
from data_tools.synthetic.rendering import HUES, Rendered, Texture
from hvdm import rng
from hvdm.data.derivation import saved

GUSTS_PER_SECOND = 2.0
MEMORY = 3.0
"""How many times of its own decay a mode has been in the wind before the clip begins."""
MOST_BINS = 16
FINE = 2
"""How many points along a pixel are averaged."""


class Band(NamedTuple):
    """Of a kind: its frequencies in Hz, and how its amplitude grows with the height."""

    low: float
    high: float
    power: float
    amplitude: float


BANDS = {
    "branch": Band(0.4, 0.7, 1.6, 0.10),
    "cloth": Band(0.85, 1.15, 1.0, 0.10),
    "grass": Band(1.35, 1.65, 1.8, 0.09),
    "flame": Band(1.85, 2.15, 1.4, 0.07),
}
SWAY_CLASSES = tuple(BANDS)
INKS = {
    "branch": ("green", "orange"),
    "cloth": ("red", "blue", "violet", "white"),
    "grass": ("green", "teal", "yellow"),
    "flame": ("orange", "yellow", "red"),
}


@dataclass(frozen=True)
class SwayMode:
    """A damped oscillation, hit by gusts: (second, strength)."""

    frequency: float
    damping: float
    share: float
    gusts: tuple[tuple[float, float], ...]

    def at(self, seconds: Floats) -> Floats:
        turns = 2 * math.pi * self.frequency
        found = np.zeros_like(seconds)
        for begin, strength in self.gusts:
            since = np.maximum(seconds - begin, 0)
            found += strength * np.exp(-self.damping * turns * since) * np.sin(turns * since)
        return self.share * found


@dataclass(frozen=True)
class Thing:
    """Something rooted: the shorter side of the frame spans [-1, 1]; `grows` is a unit vector."""

    kind: str
    hue: str
    texture: Texture
    root: tuple[float, float]
    grows: tuple[float, float]
    length: float
    wide: float
    amplitude: float
    modes: tuple[SwayMode, ...]

    def bends(self, seconds: Floats) -> Floats:
        """How far its tip is away, in units of the plane."""
        swings: Floats = sum((mode.at(seconds) for mode in self.modes), np.zeros_like(seconds))
        return self.amplitude * swings

    def height(self, x: Floats, y: Floats) -> Floats:
        """Over the root: 0 there, 1 at the tip."""
        along = (x - self.root[0]) * self.grows[0] + (y - self.root[1]) * self.grows[1]
        return np.asarray(along / self.length)

    def bent(self, height: Floats) -> Floats:
        """The share of the tip's way that this height goes."""
        return np.asarray(np.clip(height, 0, 1.2) ** BANDS[self.kind].power)

    @property
    def across(self) -> tuple[float, float]:
        return -self.grows[1], self.grows[0]

    def inside(self, height: Floats, side: Floats) -> Floats:
        """Signed distance to its outline at rest, negative inside; `side` is off its axis."""
        end = np.maximum(-height, height - 1) * self.length
        return np.maximum(np.abs(side) - self.wide * _profile(self.kind, height), end)


def _profile(kind: str, height: Floats) -> Floats:
    """Half the width at each height, as a share of the widest."""
    up = np.clip(height, 0, 1)
    if kind == "cloth":
        return np.ones_like(up)
    if kind == "flame":
        return np.asarray(1.6 * np.sqrt(up + 0.05) * (1 - up) ** 0.8)
    if kind == "branch":
        return np.asarray(0.55 + 0.45 * np.sin(9 * up) * (up > 0.2))
    return np.asarray(1 - 0.75 * up)


class SwayScene(NamedTuple):
    ground: Texture
    things: tuple[Thing, ...]
    wind: float


class Frames(NamedTuple):
    """What is seen at rest and in one moment."""

    picture: Floats
    owner: Floats


def compose_scene(random: np.random.Generator, seconds: float) -> SwayScene:
    """Two to four things, the first kind the scene's class, over a cloudy ground."""
    wind = float(random.uniform(0.4, 1.0))
    kind = SWAY_CLASSES[int(random.integers(len(SWAY_CLASSES)))]
    count = int(random.integers(2, 5))
    places = (np.arange(count) + 0.5 + random.uniform(-0.2, 0.2, count)) / count * 2 - 1
    tint = np.array(HUES[("blue", "violet", "teal")[int(random.integers(3))]], np.float32)
    lattice = random.random((16, 16), dtype=np.float32)
    ground = Texture("cloudy", 0.2 * tint + 10, 0.5 * tint + 40, 3.0, lattice)
    things = tuple(_thing(random, kind, float(place), wind, seconds) for place in places)
    return SwayScene(ground, things, wind)


def _thing(
    random: np.random.Generator, kind: str, place: float, wind: float, seconds: float
) -> Thing:
    band = BANDS[kind]
    lean = random.uniform(-0.2, 0.2)
    down = -1.0 if kind == "cloth" else 1.0
    grows = (math.sin(lean), -down * math.cos(lean))
    hues = INKS[kind]
    hue = hues[int(random.integers(len(hues)))]
    light = np.array(HUES[hue], np.float32)
    texture = Texture("cloudy", 0.35 * light, light, 4.0, random.random((16, 16), dtype=np.float32))
    return Thing(
        kind=kind,
        hue=hue,
        texture=texture,
        root=(place, down * float(random.uniform(0.75, 0.95))),
        grows=grows,
        length=float(random.uniform(0.9, 1.4)),
        wide=float(random.uniform(0.14, 0.22)),
        amplitude=band.amplitude * wind * float(random.uniform(0.7, 1.0)),
        modes=tuple(_mode(random, band, share, seconds) for share in (0.9, 0.25)),
    )


def _mode(random: np.random.Generator, band: Band, share: float, seconds: float) -> SwayMode:
    """Gusts of such strengths that it swings by about its amplitude all the time."""
    frequency, damping = float(random.uniform(band.low, band.high)), 0.02
    rate = 2 * math.pi * frequency * damping
    size = math.sqrt(2 * rate / GUSTS_PER_SECOND)
    time, gusts = -MEMORY / rate, []
    while time < seconds:
        time += float(random.exponential(1 / GUSTS_PER_SECOND))
        gusts.append((time, size * float(random.choice([-1, 1]) * random.uniform(0.7, 1.3))))
    return SwayMode(frequency, damping, share, tuple(gusts))


def sway_clip(
    seed: int, split: str, index: int, frames: int, height: int, width: int, fps: int
) -> Rendered:
    """Clip number `index`, with its flow from the first frame, its spectrum and its outlines."""
    random = rng.numpy_generator(rng.seed_of(seed, split), index, "sway")
    scene = compose_scene(random, frames / fps)
    seconds = np.arange(frames, dtype=np.float64) / fps
    video = np.empty((frames, height, width, 3), np.uint8)
    for frame in range(frames):
        seen = _seen(scene, seconds[frame : frame + 1], height * FINE, width * FINE)
        small = seen.picture.reshape(height, FINE, width, FINE, 3).mean((1, 3))
        video[frame] = np.clip(np.rint(small), 0, 255)
    label = SWAY_CLASSES.index(scene.things[0].kind)
    description = f"{len(scene.things)} things like {SWAY_CLASSES[label]}, swaying"
    return Rendered(
        video, label, scene.wind, description, _truth(scene, seconds, height, width), _facts(scene)
    )


def _facts(scene: SwayScene) -> dict[str, Any]:
    """Frequencies and amplitudes as they were planted; amplitudes in shares of the short side."""
    band = BANDS[scene.things[0].kind]
    modes = [
        {"thing": number, **{k: v for k, v in asdict(mode).items() if k != "gusts"},
         "amplitude": thing.amplitude * mode.share / 2}
        for number, thing in enumerate(scene.things)
        for mode in thing.modes
    ]  # fmt: skip
    return {"wind": scene.wind, "band": [band.low, band.high], "modes": modes}


def _seen(scene: SwayScene, seconds: Floats, height: int, width: int) -> Frames:
    x, y, pixel = _plane(height, width)
    picture, owner = scene.ground.paint(x, y), np.zeros((height, width), np.uint8)
    for number, thing in enumerate(scene.things, start=1):
        up = thing.height(x, y)
        side = (x - thing.root[0]) * thing.across[0] + (y - thing.root[1]) * thing.across[1]
        side = side - thing.bends(seconds)[0] * thing.bent(up)
        distance = thing.inside(up, side)
        cover = np.clip(0.5 - distance / pixel, 0, 1)[..., None]
        shade = 0.7 + 0.3 * np.clip(-distance / 0.08, 0, 1)[..., None]
        ink = thing.texture.paint(side * 1.5, up * thing.length * 1.5) * shade
        picture = picture * (1 - cover) + ink * cover
        owner = np.where(cover[..., 0] > 0.5, number, owner)
    return Frames(picture, owner)


def _truth(scene: SwayScene, seconds: Floats, height: int, width: int) -> dict[str, bytes]:
    """`true_flow.npy` `T 2 H W`, `true_spectrum.npy` `K 2 2 H W`, `things.npy` `H W`."""
    owner = _seen(scene, seconds[:1], height, width).owner
    x, y, pixel = _plane(height, width)
    flow = np.zeros((len(seconds), 2, height, width), np.float32)
    for number, thing in enumerate(scene.things, start=1):
        bends = thing.bends(seconds) - thing.bends(seconds[:1])
        way = thing.bent(thing.height(x, y)) * (owner == number) / pixel
        for axis in (0, 1):
            flow[:, axis] += (bends[:, None, None] * way * thing.across[axis]).astype(np.float32)
    spectrum = np.fft.rfft(flow, axis=0)[:MOST_BINS]
    parts = np.stack([spectrum.real, spectrum.imag], 1).astype(np.float16)
    return {
        "true_flow.npy": saved(flow.astype(np.float16)),
        "true_spectrum.npy": saved(parts),
        "things.npy": saved(owner.astype(np.uint8)),
    }


def _plane(height: int, width: int) -> tuple[Floats, Floats, float]:
    """Coordinates of pixel centres, and the size of a pixel."""
    pixel = 2 / min(height, width)
    rows = ((np.arange(height) + 0.5 - height / 2) * pixel).astype(np.float32)
    columns = ((np.arange(width) + 0.5 - width / 2) * pixel).astype(np.float32)
    x, y = np.meshgrid(columns, rows)
    return x, y, pixel
