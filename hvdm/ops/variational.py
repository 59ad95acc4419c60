"""The variational bound of one diffusion step, in bits per value (arXiv 2102.09672, section 3)."""

import math

import torch
from torch import Tensor

BIN = 1 / 255
"""Half the width of a value of 8 bits in [-1, 1]."""


def posterior_of(x0: Tensor, x: Tensor, now: Tensor, after: Tensor) -> Tensor:
    """The mean of q(x_{t-1} | x_t, x_0), of alpha-bar before a step and after it (DDPM, eq. 7)."""
    kept = now / after
    return after.sqrt() * (1 - kept) / (1 - now) * x0 + kept.sqrt() * (1 - after) / (1 - now) * x


def kl_in_bits(mean: Tensor, log_variance: Tensor, of: Tensor, log_variance_of: Tensor) -> Tensor:
    """KL of normal distributions, value by value: the first from the second."""
    apart = (mean - of).square() * torch.exp(-log_variance_of)
    ratio = log_variance - log_variance_of
    return 0.5 * (ratio.exp() - 1 - ratio + apart) / math.log(2)


def pixel_bits(x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Bits of values of 8 bits under a normal distribution of that mean."""
    scale = torch.exp(-0.5 * log_variance)
    below = torch.special.ndtr((x0 - mean - BIN) * scale).masked_fill(x0 < -0.999, 0)
    above = torch.special.ndtr((x0 - mean + BIN) * scale).masked_fill(x0 > 0.999, 1)
    return -(above - below).clamp_min(1e-12).log2()
