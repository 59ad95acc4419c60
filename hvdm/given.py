"""Videos as a program has them at hand, as models take them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hvdm.errors import UserError
from hvdm.recipe import Clip, to_model

MOST = 2.0
"""Of a decoder's own videos, which leave [-1, 1] a little; pixels of 0 to 255 go far beyond."""
TAKEN = "give uint8 T H W 3 or B T H W 3, or float B C T H W in [-1, 1]"


def as_video(given: Tensor | npt.NDArray[Any], clip: Clip) -> Tensor:
    """Float `B C T H W` in [-1, 1] of clips of this size; what cannot be one is refused."""
    values = torch.from_numpy(np.ascontiguousarray(given)) if isinstance(given, np.ndarray) else (
        given)  # fmt: skip
    if values.dtype == torch.uint8:
        video = to_model(_rows_of_pixels(values, clip))
    elif values.is_floating_point():
        video = _within(values).to(torch.get_default_dtype())
    else:
        raise UserError(f"a video of {_name(values)} cannot be encoded; {TAKEN}")
    if video.ndim != 5 or tuple(video.shape[1:]) != clip.shape:
        raise UserError(_misfit(values, clip))
    return video


def _rows_of_pixels(values: Tensor, clip: Clip) -> Tensor:
    rows = values[None] if values.ndim == 4 else values
    if rows.ndim != 5 or rows.shape[-1] != clip.channels:
        raise UserError(_misfit(values, clip))
    return rows


def _within(values: Tensor) -> Tensor:
    most = values.abs().amax().item() if values.numel() else 0.0
    if not most <= MOST:
        raise UserError(f"a video of floats reaches {most:g}; {TAKEN}")
    return values


def _misfit(values: Tensor, clip: Clip) -> str:
    shape = " ".join(map(str, values.shape))
    return (
        f"a video of {_name(values)} {shape} does not fit clips of {clip.frames} frames of "
        f"{clip.height}x{clip.width}; {TAKEN}"
    )


def _name(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")
