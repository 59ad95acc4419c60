"""Which frames and which part of them a row sees: functions of an explicit generator."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from hvdm.errors import UserError

Frames = npt.NDArray[np.uint8]
"""Frames `T H W C`, red first."""

Values = npt.NDArray[Any]

Generators = Callable[[str], np.random.Generator]
"""A generator for each use, so that a new kind of choice changes none of the others."""


@dataclass(frozen=True)
class ClipSpec:
    """What a run takes of a video: every stride-th of its frames, at this size.

    `max_stride` lets the stride vary, as far as the video is long enough; `crop_scale` is the
    smallest side of a random crop as a share of the largest; `flip` is the probability of a mirror
    image, `turn` that of one, two or three quarter turns. A video that is too short is refused, or
    padded with its last frame under a mask.
    """

    frames: int
    height: int
    width: int
    stride: int = 1
    max_stride: int | None = None
    crop: Literal["centre", "random"] = "centre"
    crop_scale: float = 1.0
    flip: float = 0.0
    turn: float = 0.0
    short: Literal["refuse", "pad"] = "refuse"

    def __post_init__(self) -> None:
        if min(self.frames, self.height, self.width, self.stride) < 1:
            raise UserError(f"a clip's frames, height, width and stride are at least 1, got {self}")
        if self.max_stride is not None and self.max_stride < self.stride:
            raise UserError(f"max_stride={self.max_stride} is below stride={self.stride}")
        if not 0 < self.crop_scale <= 1 or not (0 <= self.flip <= 1 and 0 <= self.turn <= 1):
            raise UserError(
                f"crop_scale is above 0 and at most 1, flip from 0 to 1, turn too, "
                f"got {self.crop_scale:g}, {self.flip:g} and {self.turn:g}"
            )
        if self.turn and self.height != self.width:
            raise UserError(
                f"data.turn={self.turn:g}: a quarter turn makes another shape of "
                f"{self.height}x{self.width}; set data.height and data.width to one size"
            )

    @property
    def span(self) -> int:
        """How many frames of the video a clip reaches over."""
        return (self.frames - 1) * self.stride + 1


class Window(NamedTuple):
    """The frames to decode; fewer than the clip's where the video is short and padding is on."""

    start: int
    stride: int
    length: int

    @property
    def indices(self) -> range:
        return range(self.start, self.start + (self.length - 1) * self.stride + 1, self.stride)


def first_window(spec: ClipSpec, total: int) -> Window:
    """The window of an evaluation: from the first frame, at the smallest stride."""
    return Window(0, spec.stride, min(spec.frames, -(-total // spec.stride)))


def random_window(spec: ClipSpec, total: int, random: Generators) -> Window:
    if total < spec.span:
        return first_window(spec, total)
    stride = _random_stride(spec, total, random)
    span = (spec.frames - 1) * stride + 1
    return Window(int(random("window").integers(total - span + 1)), stride, spec.frames)


def _random_stride(spec: ClipSpec, total: int, random: Generators) -> int:
    if spec.max_stride is None or spec.frames == 1:
        return spec.stride
    longest = min(spec.max_stride, (total - 1) // (spec.frames - 1))
    return int(random("stride").integers(spec.stride, longest + 1))


class View(NamedTuple):
    """The part of a picture that a row sees, its size there, and how it is mirrored and turned."""

    top: int
    left: int
    tall: int
    wide: int
    height: int
    width: int
    flip: bool = False
    turns: int = 0


def view_of(spec: ClipSpec, size: tuple[int, int], random: Generators | None) -> View:
    """The view of a picture of this size; without generators its middle, upright."""
    top, left, tall, wide = 0, 0, *size
    if random and spec.crop == "random":
        top, left, tall, wide = _random_box(spec, size, random("crop"))
    within = _largest((tall, wide), spec.height, spec.width)
    top, left = top + (tall - within[0]) // 2, left + (wide - within[1]) // 2
    flip = bool(random and spec.flip and random("flip").random() < spec.flip)
    return View(
        top, left, *within, spec.height, spec.width, flip, _turns(spec, random) if random else 0
    )


def _random_box(
    spec: ClipSpec, size: tuple[int, int], random: np.random.Generator
) -> tuple[int, int, int, int]:
    scale = random.uniform(spec.crop_scale, 1.0)
    tall, wide = (max(1, round(side * scale)) for side in _largest(size, spec.height, spec.width))
    top = int(random.integers(size[0] - tall + 1))
    return top, int(random.integers(size[1] - wide + 1)), tall, wide


def _turns(spec: ClipSpec, random: Generators) -> int:
    if not spec.turn:
        return 0
    chosen = random("turn")
    return int(chosen.integers(1, 4)) if chosen.random() < spec.turn else 0


def pad(values: Values, count: int) -> Values:
    """Repeated at the end up to `count` frames."""
    missing = count - len(values)
    return np.concatenate([values, np.repeat(values[-1:], missing, 0)]) if missing else values


def resize(frames: Frames, height: int, width: int) -> Frames:
    """Centre crop to the aspect, then bilinear with antialias; nothing where the size fits."""
    if frames.shape[1:3] == (height, width):
        return frames
    cropped = torch.from_numpy(crop_to_aspect(frames, height, width).copy())
    scaled = resampled(cropped.permute(0, 3, 1, 2).float(), height, width)
    pixels = scaled.round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()


def resampled(planes: Tensor, height: int, width: int) -> Tensor:
    """Floats `B C H W` at another size."""
    return functional.interpolate(
        planes, size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )


def crop_to_aspect(frames: Frames, height: int, width: int) -> Frames:
    """The largest centred part of the frames that has the aspect height : width."""
    tall, wide = _largest(frames.shape[1:3], height, width)
    top, left = (frames.shape[1] - tall) // 2, (frames.shape[2] - wide) // 2
    return frames[:, top : top + tall, left : left + wide]


def _largest(size: tuple[int, ...], height: int, width: int) -> tuple[int, int]:
    full_height, full_width = size
    tall = min(full_height, round(full_width * height / width))
    return tall, min(full_width, round(full_height * width / height))
