"""How the values of a field follow the view of a row: what moves with the picture, and what turns.

Height and width are the last two axes, but of colours, where the channels come last. Vectors have
their two components in front of them: x to the right and y down, in pixels.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from hvdm.data.clips import Values, View, resampled, resize


class Moves(NamedTuple):
    """The axes of height and width, where there are any, and the rule."""

    axes: tuple[int, int] | None
    follow: Callable[[Values, View], Values]

    def size(self, values: Values) -> tuple[int, int] | None:
        return (
            None if self.axes is None else (values.shape[self.axes[0]], values.shape[self.axes[1]])
        )


def _colours(values: Values, view: View) -> Values:
    part = values[:, view.top : view.top + view.tall, view.left : view.left + view.wide]
    return _placed(resize(part, view.height, view.width), view, (1, 2))


def _scalars(values: Values, view: View) -> Values:
    part = values[..., view.top : view.top + view.tall, view.left : view.left + view.wide]
    return _placed(_resampled(part, view.height, view.width), view, (-2, -1))


def _vectors(values: Values, view: View) -> Values:
    x, y = np.moveaxis(_scalars(values, view), -3, 0)
    x, y = x * (view.width / view.wide), y * (view.height / view.tall)
    if view.flip:
        x = -x
    for _ in range(view.turns):
        x, y = y, -x
    return np.stack([x, y], -3)


def _fixed(values: Values, view: View) -> Values:
    return values


def _resampled(values: Values, height: int, width: int) -> Values:
    if values.shape[-2:] == (height, width):
        return values
    if np.iscomplexobj(values):
        real, imaginary = (_resampled(part, height, width) for part in (values.real, values.imag))
        return real + 1j * imaginary
    planes = torch.from_numpy(np.ascontiguousarray(values))[None].flatten(0, -3)[None]
    return resampled(planes, height, width).numpy().reshape(*values.shape[:-2], height, width)


def _placed(values: Values, view: View, axes: tuple[int, int]) -> Values:
    """Mirrored, then turned against the clock."""
    if view.flip:
        values = np.flip(values, axes[1])
    if view.turns:
        values = np.rot90(values, view.turns, axes)
    return np.ascontiguousarray(values) if view.flip or view.turns else values


COLOURS = Moves((1, 2), _colours)
DEPTH = Moves((-2, -1), _scalars)
VECTORS = Moves((-2, -1), _vectors)
SPECTRUM = VECTORS
"""Complex vectors, of a frequency each."""
FIXED = Moves(None, _fixed)
