"""Outlines of about unit size, as signed distances: negative inside, in units of the plane."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]
Distance = Callable[[Floats, Floats], Floats]


def _box(x: Floats, y: Floats, half_width: float, half_height: float) -> Floats:
    across, along = np.abs(x) - half_width, np.abs(y) - half_height
    outside = np.hypot(np.maximum(across, 0), np.maximum(along, 0))
    return outside + np.minimum(np.maximum(across, along), 0)


def _disc(x: Floats, y: Floats) -> Floats:
    return np.hypot(x, y) - 0.9


def _square(x: Floats, y: Floats) -> Floats:
    return _box(x, y, 0.7, 0.7) - 0.08


def _triangle(x: Floats, y: Floats) -> Floats:
    side = 0.5 * y + 0.866 * np.abs(x)
    return np.maximum(side, -y) - 0.55


def _star(x: Floats, y: Floats) -> Floats:
    radius, sector = np.hypot(x, y), 2 * math.pi / 5
    angle = np.abs(np.mod(np.arctan2(x, y) + sector / 2, sector) - sector / 2)
    tip, notch = 1.1, (0.5 * math.cos(sector / 2), 0.5 * math.sin(sector / 2))
    edge = math.hypot(notch[0] - tip, notch[1])
    along, across = radius * np.cos(angle) - tip, radius * np.sin(angle)
    return (along * notch[1] - across * (notch[0] - tip)) / edge


def _ring(x: Floats, y: Floats) -> Floats:
    return np.abs(np.hypot(x, y) - 0.7) - 0.27


def _cross(x: Floats, y: Floats) -> Floats:
    return np.minimum(_box(x, y, 1.0, 0.32), _box(x, y, 0.32, 1.0))


def _crescent(x: Floats, y: Floats) -> Floats:
    return np.maximum(np.hypot(x, y) - 0.95, 0.75 - np.hypot(x - 0.45, y))


def _bar(x: Floats, y: Floats) -> Floats:
    return _box(x, y, 0.85, 0.12) - 0.2


SHAPES: dict[str, Distance] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "crescent": _crescent,
    "bar": _bar,
}
