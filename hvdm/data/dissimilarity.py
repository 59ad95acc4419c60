"""How unlike two frames are: the motion strength of a clip is that of its first and last."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]


def dissimilarity(first: npt.NDArray[np.uint8], last: npt.NDArray[np.uint8]) -> float:
    """DSSIM, (1 - SSIM) / 2, of two frames: grey, uniform 7 x 7 windows.

    `hvdm.ops.motion` has it for tensors; the processes that encode clips start without torch.
    """
    a, b = (frame.astype(np.float64).mean(axis=-1) for frame in (first, last))
    mean_a, mean_b = _blur(a), _blur(b)
    spread = _blur(a * a) - mean_a**2 + _blur(b * b) - mean_b**2
    joint = _blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ssim = (2 * mean_a * mean_b + c1) * (2 * joint + c2)
    return float((1 - (ssim / ((mean_a**2 + mean_b**2 + c1) * (spread + c2))).mean()) / 2)


def _blur(image: Floats, size: int = 7) -> Floats:
    size = min(size, *image.shape)
    sums = np.pad(image.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    total = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    return np.asarray(total / size**2)
