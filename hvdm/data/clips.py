"""Which frames and which part of them a row takes: functions of an explicit generator."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from hvdm.errors import UserError

Frames = npt.NDArray[np.uint8]
"""Frames `T H W C`, red first."""

Generators = Callable[[str], np.random.Generator]
"""A generator for each use, so that a new kind of choice changes none of the others."""


@dataclass(frozen=True)
class ClipSpec:
    """What a run takes of a video: every stride-th of its frames, at this size.

    `max_stride` lets the stride vary, as far as the video is long enough; `crop_scale` is the
    smallest side of a random crop as a share of the largest; `flip` is the probability of a mirror
    image. A video that is too short is refused, or padded with its last frame under a mask.
    """

    frames: int
    height: int
    width: int
    stride: int = 1
    max_stride: int | None = None
    crop: Literal["centre", "random"] = "centre"
    crop_scale: float = 1.0
    flip: float = 0.0
    short: Literal["refuse", "pad"] = "refuse"

    def __post_init__(self) -> None:
        if min(self.frames, self.height, self.width, self.stride) < 1:
            raise UserError(f"a clip's frames, height, width and stride are at least 1, got {self}")
        if self.max_stride is not None and self.max_stride < self.stride:
            raise UserError(f"max_stride={self.max_stride} is below stride={self.stride}")
        if not 0 < self.crop_scale <= 1 or not 0 <= self.flip <= 1:
            raise UserError(
                f"crop_scale is above 0 and at most 1, flip from 0 to 1, "
                f"got {self.crop_scale:g} and {self.flip:g}"
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


def view(frames: Frames, spec: ClipSpec, random: Generators | None) -> Frames:
    """The part of the frames that the run sees, at its size; from the centre without generators."""
    if random is None:
        return resize(frames, spec.height, spec.width)
    if spec.crop == "random":
        frames = _random_crop(frames, spec, random("crop"))
    frames = resize(frames, spec.height, spec.width)
    if spec.flip and random("flip").random() < spec.flip:
        frames = np.ascontiguousarray(frames[:, :, ::-1])
    return frames


def _random_crop(frames: Frames, spec: ClipSpec, random: np.random.Generator) -> Frames:
    scale = random.uniform(spec.crop_scale, 1.0)
    largest = _largest(frames, spec.height, spec.width)
    tall, wide = (max(1, round(side * scale)) for side in largest)
    top = int(random.integers(frames.shape[1] - tall + 1))
    left = int(random.integers(frames.shape[2] - wide + 1))
    return frames[:, top : top + tall, left : left + wide]


def pad(frames: Frames, count: int) -> tuple[Frames, npt.NDArray[np.float32]]:
    """The frames repeated at the end up to `count`, and a mask that is 1 where they are real."""
    real = len(frames)
    mask = (np.arange(count) < real).astype(np.float32)
    if real == count:
        return frames, mask
    return np.concatenate([frames, np.repeat(frames[-1:], count - real, axis=0)]), mask


def resize(frames: Frames, height: int, width: int) -> Frames:
    """Centre crop to the aspect, then bilinear with antialias; nothing where the size fits."""
    if frames.shape[1:3] == (height, width):
        return frames
    cropped = torch.from_numpy(crop_to_aspect(frames, height, width).copy())
    scaled = functional.interpolate(
        cropped.permute(0, 3, 1, 2).float(),
        size=(height, width),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    pixels = scaled.round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()


def crop_to_aspect(frames: Frames, height: int, width: int) -> Frames:
    """The largest centred part of the frames that has the aspect height : width."""
    tall, wide = _largest(frames, height, width)
    top, left = (frames.shape[1] - tall) // 2, (frames.shape[2] - wide) // 2
    return frames[:, top : top + tall, left : left + wide]


def _largest(frames: Frames, height: int, width: int) -> tuple[int, int]:
    full_height, full_width = frames.shape[1:3]
    tall = min(full_height, round(full_width * height / width))
    return tall, min(full_width, round(full_height * width / height))
