"""Samplers of Gaussian diffusion: DDIM, DDPM, DPM-Solver++ (2M).

Each runs `denoise(x, t) -> eps` from noise down the steps of `timesteps`, the predicted x_0 held
in [-bound, bound]. `noise(k)` is the fresh noise of step k, asked for only where it has a size.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from hvdm.errors import UserError
from hvdm.ops.schedule import x0_from_eps

Denoise = Callable[[Tensor, Tensor], Tensor]
Fresh = Callable[[int], Tensor]
Spread = Callable[[float, float], float | Tensor]
"""The variance of an ancestral step, of its beta and of the posterior's variance."""


def timesteps(steps: int, trained: int = 1000) -> list[int]:
    """From trained-1 down to -1 (no noise) in `steps` steps: floor(linspace(-1, trained-1))."""
    if not 1 <= steps <= trained:
        raise UserError(f"steps={steps}: sampling takes between 1 and {trained} steps")
    return [trained * k // steps - 1 for k in range(steps, -1, -1)]


def _levels(alpha_bar: Tensor, steps: int) -> Iterator[tuple[int, float, float]]:
    """Per step: its time, and alpha-bar before and after it."""
    level = [*alpha_bar.tolist(), 1.0]  # level[-1]: no noise left
    for t, following in pairwise(timesteps(steps, len(alpha_bar))):
        yield t, level[t], level[following]


def _predicted(
    denoise: Denoise, x: Tensor, t: int, alpha_bar: Tensor, bound: float
) -> tuple[Tensor, Tensor]:
    now = torch.full((len(x),), t, device=x.device)
    eps = denoise(x, now)
    return eps, x0_from_eps(x, now, eps, alpha_bar).clamp(-bound, bound)


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
    noise: Fresh,
    bound: float = 1.0,
    skip: int = 0,
) -> Tensor:
    """arXiv 2010.02502, eq. 12 and 16; eta = 1 is ancestral, eta = 0 deterministic.

    Without the first `skip` steps, `start` being as noisy as they would leave it.
    """
    x = start
    for k, (t, now, after) in enumerate(_levels(alpha_bar, steps)):
        if k < skip:
            continue
        eps, x0 = _predicted(denoise, x, t, alpha_bar, bound)
        sigma, rest = _step_constants(now, after, eta)
        x = after**0.5 * x0 + rest * eps
        if sigma > 0:
            x = x + sigma * noise(k).to(x)
    return x


def inverse_ddim(
    denoise: Denoise, clean: Tensor, alpha_bar: Tensor, steps: int, passes: int = 3
) -> Tensor:
    """The noise that `ddim` with eta = 0 and no bound leads to `clean` from.

    Each step is solved for what it began with by going through it `passes` times: its eps is asked
    for at that, as the sampler will.
    """
    x = clean
    for t, now, after in reversed(list(_levels(alpha_bar, steps))):
        time = torch.full((len(x),), t, device=x.device)
        kept = (after / now) ** 0.5
        added = (1 - after) ** 0.5 - kept * (1 - now) ** 0.5
        before = x
        for _ in range(passes):
            before = (x - added * denoise(before, time)) / kept
        x = before
    return x


def small(beta: float, posterior: float) -> float:
    return posterior


def large(beta: float, posterior: float) -> float:
    return beta


def ddpm(
    denoise: Denoise,
    start: Tensor,
    alpha_bar: Tensor,
    steps: int,
    noise: Fresh,
    bound: float = 1.0,
    spread: Spread = small,
) -> Tensor:
    """arXiv 2006.11239, eq. 6-7: the posterior of x_0 and x_t, with its own variance or another.

    Over fewer steps than were trained, beta is that of the whole step (arXiv 2102.09672, sec. 4).
    """
    x = start
    for k, (t, now, after) in enumerate(_levels(alpha_bar, steps)):
        _, x0 = _predicted(denoise, x, t, alpha_bar, bound)
        kept = now / after  # alpha of this step
        mean = after**0.5 * (1 - kept) / (1 - now) * x0 + kept**0.5 * (1 - after) / (1 - now) * x
        posterior = (1 - after) / (1 - now) * (1 - kept)
        x = mean
        if posterior > 0:
            x = x + spread(1 - kept, posterior) ** 0.5 * noise(k).to(x)
    return x


def dpm_solver_2m(
    denoise: Denoise, start: Tensor, alpha_bar: Tensor, steps: int, bound: float = 1.0
) -> Tensor:
    """arXiv 2211.01095, algorithm 2: data prediction, two steps' memory; the first and the last
    step are of first order."""
    x, before, reached = start, start, 0.0
    for k, (t, now, after) in enumerate(_levels(alpha_bar, steps)):
        _, x0 = _predicted(denoise, x, t, alpha_bar, bound)
        if after == 1.0:
            return x0
        stride = _half_log_snr(after) - _half_log_snr(now)
        blend = x0 if k == 0 else x0 + stride / (2 * reached) * (x0 - before)
        shrink = ((1 - after) / (1 - now)) ** 0.5
        x = shrink * x - after**0.5 * math.expm1(-stride) * blend
        before, reached = x0, stride
    return x


def _half_log_snr(alpha_bar: float) -> float:
    return 0.5 * math.log(alpha_bar / (1 - alpha_bar))
