"""Blur: a scale for distances between sets of clips; everyone knows what it looks like."""

import torch
from torch import Tensor
from torch.nn import functional

BLUR = 1 / 16
"""Standard deviation as a share of the shorter side: 2 pixels of 32."""


def soft(frames: Tensor, share: float = BLUR) -> Tensor:
    """A Gaussian over uint8 `N H W 3`, its edges repeated."""
    sigma = share * min(frames.shape[1:3])
    reach = round(3 * sigma)
    at = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    x = functional.pad(frames.permute(0, 3, 1, 2).float(), (reach,) * 4, mode="replicate")
    x = functional.conv2d(functional.conv2d(x, kernel, groups=3), kernel.mT, groups=3)
    return x.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
