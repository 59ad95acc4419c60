"""What the frame diffusion's networks are trained and sampled by: the noise, and the variance."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from hvdm.ops import sampler as samplers
from hvdm.ops.sampler import Fresh, Spread, ddim, ddpm, dpm_solver_2m
from hvdm.ops.schedule import alpha_bars, cosine_betas, linear_betas, q_sample, x0_from_eps
from hvdm.ops.variational import kl_in_bits, pixel_bits, posterior_of

Sampler = Literal["ddim", "ddpm", "dpm++2m"]
Schedule = Literal["linear", "cosine"]
Variance = Literal["large", "small", "learned"]
Predict = Callable[[Tensor, Tensor], Tensor]
"""Noisy frames `B K C H W` and times in thousandths of the process, `B` -> `B K C' H W`."""
THOUSAND = 1000
BOUND_SHARE = 1e-3
"""Of the bound in the loss, as in improved diffusion's hybrid of both."""


class Process:
    """Noise is predicted; a network that learns the variance says in as many further channels
    where between the posterior's and beta it lies."""

    def __init__(self, steps: int, schedule: Schedule, variance: Variance) -> None:
        betas = linear_betas(steps) if schedule == "linear" else cosine_betas(steps)
        self.steps, self.variance = steps, variance
        self.alpha_bar = alpha_bars(betas)

    def clock(self, t: Tensor) -> Tensor:
        """Times as networks are told them."""
        return t * (THOUSAND / self.steps)

    def noisy(self, clean: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return q_sample(clean, t, noise, self.alpha_bar)

    def losses(
        self, said: Tensor, clean: Tensor, noisy: Tensor, noise: Tensor, t: Tensor
    ) -> Tensor:
        """Of each value, `B K C H W`."""
        if self.variance != "learned":
            return (said - noise).square()
        eps, share = said.chunk(2, 2)
        bound = self._bits(eps.detach(), share, clean, noisy, t)
        return (eps - noise).square() + BOUND_SHARE * self.steps * bound

    def _bits(self, eps: Tensor, share: Tensor, clean: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """The term of the bound at a step; the first step's is that of pixels."""
        levels = torch.cat((torch.ones(1, dtype=torch.float64, device="cpu"), self.alpha_bar))
        now, after = (
            levels.to(t.device)[at].reshape(-1, *[1] * (clean.ndim - 1)) for at in (t + 1, t)
        )
        beta, first = 1 - now / after, levels[1:3].to(t.device)
        least = (1 - first[0]) / (1 - first[1]) * (1 - first[1] / first[0])
        posterior = (beta * (1 - after) / (1 - now)).clamp_min(least)
        found = x0_from_eps(noisy, t, eps, self.alpha_bar)
        mean, target = (posterior_of(x0.double(), noisy, now, after) for x0 in (found, clean))
        log_variance = _between(share, beta, posterior)
        bits = kl_in_bits(target, posterior.log(), mean, log_variance)
        first_step = pixel_bits(clean, mean, log_variance)
        return torch.where(t.reshape(beta.shape) == 0, first_step, bits).to(clean)

    def sample(
        self,
        predict: Predict,
        start: Tensor,
        sampler: Sampler,
        steps: int,
        eta: float,
        fresh: Fresh,
    ) -> Tensor:
        """Frames `B K C H W`, in `steps` calls."""
        denoise = _Denoise(self, predict)
        if sampler == "dpm++2m":
            return dpm_solver_2m(denoise, start, self.alpha_bar, steps)
        if sampler == "ddim":
            return ddim(denoise, start, self.alpha_bar, steps, eta, fresh)
        spreads: Mapping[str, Spread] = {"small": samplers.small, "large": samplers.large}
        spread = spreads.get(self.variance, denoise.spread)
        return ddpm(denoise, start, self.alpha_bar, steps, fresh, spread=spread)


class _Denoise:
    """The noise for the samplers; of a learned variance, what was last said of it."""

    def __init__(self, process: Process, predict: Predict) -> None:
        self.process, self.predict = process, predict
        self.share = torch.zeros(())

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        said = self.predict(x, self.process.clock(t))
        if self.process.variance != "learned":
            return said
        eps, self.share = said.chunk(2, 2)
        return eps

    def spread(self, beta: float, posterior: float) -> Tensor:
        ends = torch.tensor([beta, posterior], dtype=torch.float64, device=self.share.device)
        return _between(self.share, *ends).exp().to(self.share)


def _between(share: Tensor, beta: Tensor, posterior: Tensor) -> Tensor:
    """The logarithm of the variance: 1 says beta, -1 the posterior's."""
    share = (share + 1) / 2
    return share * beta.log() + (1 - share) * posterior.log()
