"""Handwriting that everybody knows: digits of 43 people, as grey pictures or as coloured clips.

The 1,797 digits are those of the UCI repository (E. Alpaydin and C. Kaynak, 1998; CC BY 4.0), 8x8
with 17 greys. They are split before anything is drawn, so that no digit is both in training and
held out. Time counts in units of 16 frames, the shorter side spans [-1, 1], as for the shapes.
"""

import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_tools.synthetic.outlines import Floats
from data_tools.synthetic.rendering import FRAMES_PER_UNIT, HUES, Rendered, reflect
from hvdm import rng
from hvdm.errors import UserError

DIGIT_CLASSES = tuple(str(number) for number in range(10))
HELD_OUT = 397
"""Of the 1,797; the other 1,400 are for training."""
STILL, MOVING = 0.9, 0.69
"""Half of a digit's side."""
FASTEST, WIDEST_TURN = 1.5, math.radians(20)
SMOOTH, FINE = 64, 3
"""The side at which outlines are smooth, and how many points along a pixel are averaged."""
INK, BLANK = 0.65, 0.25
"""Of a smooth digit: what is all ink, and what is none."""
BRIGHT = ("red", "orange", "yellow", "teal", "white")
GROUNDS = ("green", "blue", "violet", "red", "teal")


class Written(NamedTuple):
    """Digits `N 8 8` from 0 to 16, and what they mean."""

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@cache
def written(split: str) -> Written:
    """The digits of one split; any that is not `train` has those that are held out."""
    with files("data_tools.synthetic").joinpath("handwritten_digits.npz").open("rb") as file:
        whole = np.load(file, allow_pickle=False)
        pixels, labels = whole["pixels"], whole["labels"].astype(np.int64)
    order = rng.numpy_generator("handwritten digits").permutation(len(labels))
    chosen = np.sort(order[HELD_OUT:] if split == "train" else order[:HELD_OUT])
    return Written(pixels[chosen], labels[chosen])


@cache
def _smooth(split: str, number: int) -> Floats:
    """A digit as a plane of ink from 0 to 1, `SMOOTH` places wide, blank around it."""
    from PIL import Image

    small = np.pad(written(split).pixels[number].astype(np.float32) / 16, 1)
    side = round(SMOOTH * 10 / 8)
    large = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
    return np.clip((np.asarray(large) - BLANK) / (INK - BLANK), 0, 1)


def _ink(digit: Floats, x: Floats, y: Floats) -> Floats:
    """The ink at places where the digit spans [-1, 1], linear between its points."""
    side = len(digit)
    scale, middle = SMOOTH / 2, side / 2 - 0.5
    right, down = (np.clip(scale * at + middle, 0, side - 1.001) for at in (x, y))
    left, top = right.astype(np.int64), down.astype(np.int64)
    u, v = right - left, down - top
    upper = digit[top, left] * (1 - u) + digit[top, left + 1] * u
    lower = digit[top + 1, left] * (1 - u) + digit[top + 1, left + 1] * u
    return np.asarray(upper * (1 - v) + lower * v)


def _cover(
    digit: Floats, height: int, width: int, place: tuple[float, float], angle: float, half: float
) -> Floats:
    """The share of each pixel that is ink."""
    pixel = 2 / (min(height, width) * FINE)
    rows = (np.arange(height * FINE) + 0.5 - height * FINE / 2) * pixel - place[1]
    columns = (np.arange(width * FINE) + 0.5 - width * FINE / 2) * pixel - place[0]
    x, y = np.meshgrid(columns, rows)
    cos, sin = math.cos(angle) / half, math.sin(angle) / half
    ink = _ink(digit, cos * x + sin * y, cos * y - sin * x)
    return ink.reshape(height, FINE, width, FINE).mean((1, 3))


def picture(split: str, index: int, height: int, width: int) -> Rendered:
    """Digit number `index` of its split, white on black."""
    digits = written(split)
    if index >= len(digits.labels):
        raise UserError(
            f"{split}={index + 1}: there are {len(digits.labels)} digits for {split}; "
            "kind=moving_digits makes clips without end of them"
        )
    label = int(digits.labels[index])
    cover = _cover(_smooth(split, index), height, width, (0.0, 0.0), 0.0, STILL)
    grey = np.rint(255 * cover).astype(np.uint8)
    video = np.repeat(grey[None, ..., None], 3, axis=3)
    return Rendered(video, label, 0.0, f"a handwritten {label}")


@dataclass(frozen=True)
class DigitCourse:
    """How a digit moves: it bounces between borders, and swings about its upright."""

    place: tuple[float, float]
    velocity: tuple[float, float]
    swing: float
    pace: float
    phase: float

    def at(self, time: float) -> tuple[tuple[float, float], float]:
        """Where it is, and how it is turned."""
        limit = 1 - MOVING
        (x, y), (across, along) = self.place, self.velocity
        place = (reflect(x + across * time, limit), reflect(y + along * time, limit))
        return place, self.swing * math.sin(self.phase + self.pace * time)


def _course(random: np.random.Generator, strength: float) -> DigitCourse:
    heading, limit = random.uniform(0, 2 * math.pi), 1 - MOVING
    speed = FASTEST * strength
    return DigitCourse(
        place=(float(random.uniform(-limit, limit)), float(random.uniform(-limit, limit))),
        velocity=(speed * math.cos(heading), speed * math.sin(heading)),
        swing=float(random.uniform(0, WIDEST_TURN)),
        pace=float(random.uniform(1.0, 4.0) * strength),
        phase=float(random.uniform(0, 2 * math.pi)),
    )


def clip(seed: int, split: str, index: int, frames: int, height: int, width: int) -> Rendered:
    """Clip number `index` of the endless set of this seed."""
    random = rng.numpy_generator(rng.seed_of(seed, split), index, "moving digits")
    digits = written(split)
    number = int(random.integers(len(digits.labels)))
    strength = float(random.uniform())
    hue = BRIGHT[int(random.integers(len(BRIGHT)))]
    ground = [name for name in GROUNDS if name != hue][int(random.integers(len(GROUNDS) - 1))]
    course = _course(random, strength)
    ink, paper = np.array(HUES[hue], np.float64), 0.32 * np.array(HUES[ground], np.float64)
    video = np.empty((frames, height, width, 3), np.uint8)
    for frame in range(frames):
        place, angle = course.at(frame / FRAMES_PER_UNIT)
        digit = _smooth(split, number)
        cover = _cover(digit, height, width, place, angle, MOVING)[..., None]
        video[frame] = np.rint(paper + (ink - paper) * cover)
    label = int(digits.labels[number])
    return Rendered(video, label, strength, f"a {hue} {label} on {ground}")
