"""Motion strength: how unlike the first and the last frame of a clip are, and its rank in a set."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

WINDOW = 7
C1, C2 = 0.01**2, 0.03**2


def strength(video: Tensor) -> Tensor:
    """`B C T H W` in [-1, 1] -> `B` in [0, 1]: DSSIM, (1 - SSIM) / 2, of its two ends."""
    first, last = (grey(video[:, :, end]) for end in (0, -1))
    return (1 - ssim(first, last)) / 2


def grey(frames: Tensor) -> Tensor:
    """`B C H W` in [-1, 1] -> `B 1 H W` in [0, 1], in float64: variances are small differences."""
    return (frames.double().mean(1, keepdim=True) + 1) / 2


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity of `B 1 H W` in [0, 1], uniform windows (Wang et al., 2004)."""
    mean_a, mean_b = blur(a), blur(b)
    spread = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
    joint = blur(a * b) - mean_a * mean_b
    above = (2 * mean_a * mean_b + C1) * (2 * joint + C2)
    below = (mean_a**2 + mean_b**2 + C1) * (spread + C2)
    return (above / below).mean((1, 2, 3))


def blur(image: Tensor) -> Tensor:
    size = min(WINDOW, *image.shape[-2:])
    return functional.avg_pool2d(image, size, 1)


def quantiles(values: Sequence[float] | Tensor, count: int = 101) -> tuple[float, ...]:
    """`count` of the values at equal shares of the set, from the least to the most."""
    shares = torch.linspace(0, 1, count, dtype=torch.float64)
    found = torch.quantile(torch.as_tensor(values, dtype=torch.float64), shares)
    return tuple(round(value, 6) for value in found.tolist())


def rank(values: Tensor, levels: Sequence[float]) -> Tensor:
    """The empirical distribution function at `values`; of equal levels half are below.

    Without levels, values stand for themselves.
    """
    if not levels:
        return values.clamp(0, 1)
    steps = torch.tensor(levels, dtype=values.dtype, device=values.device)
    at = values[:, None]
    return ((steps < at).to(values) + 0.5 * (steps == at).to(values)).mean(1)
