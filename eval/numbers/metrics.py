"""Per-clip comparison of uint8 video `B T H W C` with what it should be."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from hvdm.errors import UserError

PEAK = 255.0
CAP = 100.0
"""dB of a frame without error, which would be infinite."""
WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


class Psnr(NamedTuple):
    """dB for each clip, and how many of its frames are equal to the bit."""

    values: Tensor
    exact_frames: Tensor


def psnr(original: Tensor, other: Tensor) -> Psnr:
    """Mean over frames of each frame's PSNR; an exact frame counts as 100 dB, and is counted."""
    _check(original, other)
    mse = (original.double() - other.double()).square().mean((2, 3, 4))
    decibels = 10 * torch.log10(PEAK**2 / mse)
    return Psnr(decibels.clamp(max=CAP).mean(1), (mse == 0).sum(1))


def ssim(original: Tensor, other: Tensor) -> Tensor:
    """Gaussian window 11x11 (sigma 1.5), valid region, per RGB channel; means over all of it."""
    _check(original, other)
    height, width = original.shape[2:4]
    if min(height, width) < WINDOW:
        raise UserError(
            f"SSIM looks through a window of {WINDOW}x{WINDOW} pixels and these frames have "
            f"{height}x{width}; evaluate clips of at least {WINDOW}x{WINDOW}"
        )
    return torch.stack([_ssim_clip(a, b) for a, b in zip(original, other, strict=True)])


def _ssim_clip(a: Tensor, b: Tensor) -> Tensor:
    x, y = (v.double().permute(0, 3, 1, 2).flatten(0, 1)[:, None] for v in (a, b))
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    joint = _blur(x * y) - mean_x * mean_y
    light = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return (light * (2 * joint + C2) / (var_x + var_y + C2)).mean()


def _blur(image: Tensor) -> Tensor:
    """`N 1 H W` -> `N 1 H-10 W-10`."""
    places = torch.arange(WINDOW, dtype=image.dtype, device=image.device) - WINDOW // 2
    weights = torch.exp(-(places**2) / (2 * SIGMA**2))
    weights = weights / weights.sum()
    rows = functional.conv2d(image, weights.view(1, 1, WINDOW, 1))
    return functional.conv2d(rows, weights.view(1, 1, 1, WINDOW))


def _check(original: Tensor, other: Tensor) -> None:
    for name, video in (("original", original), ("other", other)):
        if video.dtype != torch.uint8 or video.dim() != 5:
            raise UserError(f"{name}: expected uint8 B T H W C, got {_kind(video)}")
    if original.shape != other.shape:
        raise UserError(f"clips differ in shape: {_kind(original)} and {_kind(other)}")


def _kind(video: Tensor) -> str:
    return f"{str(video.dtype).removeprefix('torch.')} {'x'.join(map(str, video.shape))}"
