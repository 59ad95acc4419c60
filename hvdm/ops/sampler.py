"""DDIM (arXiv 2010.02502, eq. 12 and 16); eta = 1 is ancestral, eta = 0 deterministic."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from hvdm.errors import UserError
from hvdm.ops.schedule import x0_from_eps

Denoise = Callable[[Tensor, Tensor], Tensor]


def timesteps(steps: int, trained: int = 1000) -> list[int]:
    """From trained-1 down to -1 (no noise) in `steps` steps: floor(linspace(-1, trained-1))."""
    if not 1 <= steps <= trained:
        raise UserError(f"steps={steps}: sampling takes between 1 and {trained} steps")
    return [trained * k // steps - 1 for k in range(steps, -1, -1)]


def _step_constants(now: float, after: float, eta: float) -> tuple[float, float]:
    """Sizes of the fresh noise, sigma of eq. 16, and of the predicted noise that remains."""
    sigma = eta * ((1 - after) / (1 - now) * (1 - now / after)) ** 0.5
    return sigma, max(1 - after - sigma**2, 0.0) ** 0.5


def ddim(
    denoise: Denoise,
    start: Tensor,
    alpha_bar: Tensor,
    steps: int,
    eta: float,
    noise: Callable[[int], Tensor],
) -> Tensor:
    """Runs `denoise(x, t) -> eps` from `start`, x_0 held in [-1, 1]; `noise(k)` is step k's.

    `noise` is asked only where fresh noise has a size, so not at all for eta = 0.
    """
    level = [*alpha_bar.tolist(), 1.0]  # level[-1]: no noise left
    x = start
    for k, (t, following) in enumerate(pairwise(timesteps(steps, len(alpha_bar)))):
        now = torch.full((len(x),), t, device=x.device)
        eps = denoise(x, now)
        x0 = x0_from_eps(x, now, eps, alpha_bar).clamp(-1, 1)
        sigma, rest = _step_constants(level[t], level[following], eta)
        x = level[following] ** 0.5 * x0 + rest * eps
        if sigma > 0:
            x = x + sigma * noise(k).to(x)
    return x
