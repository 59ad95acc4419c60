"""Diffusion in a few large steps and its Gaussian posterior (DDGAN, arXiv 2112.07804, eq. 3 and 4).

Step k adds noise of variance beta_k. `t` counts steps from 0: what it is told of lies between y_t
and y_{t+1}. Tables are float64 on the CPU; what meets a sample takes its device and dtype.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST, MOST, CLEANEST = 0.1, 20.0, 1e-3
"""The variance-preserving process: its rate from begin to end, and where it begins."""


def _alpha_bar(time: Tensor) -> Tensor:
    """exp of minus the integral of the rate up to a time from 0 to 1 (arXiv 2011.13456, eq. 33)."""
    return torch.exp(-0.5 * time.square() * (MOST - LEAST) - time * LEAST)


@dataclass(frozen=True)
class LargeSteps:
    """Of `steps` + 1 levels of noise: `kept` of the signal, `added` noise, and the posterior's."""

    betas: Tensor
    kept: Tensor
    added: Tensor
    from_clean: Tensor
    from_noisier: Tensor
    deviation: Tensor

    @property
    def steps(self) -> int:
        return len(self.from_clean)

    def noisy(self, y: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """y_t from y_0; `t` is one per row."""
        return _of(self.kept, t, y) * y + _of(self.added, t, y) * noise

    def noisier(self, y: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """y_{t+1} from y_t."""
        beta = self.betas[1:]
        return _of((1 - beta).sqrt(), t, y) * y + _of(beta.sqrt(), t, y) * noise

    def before(self, clean: Tensor, noisier: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """y_t, drawn from what lies between y_0 and y_{t+1}."""
        mean = _of(self.from_clean, t, clean) * clean + _of(self.from_noisier, t, clean) * noisier
        return mean + _of(self.deviation, t, clean) * noise


def _of(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
    return table.to(t.device)[t].to(like).reshape(-1, *[1] * (like.ndim - 1))


def large_steps(count: int) -> LargeSteps:
    times = torch.linspace(0, 1, count + 1, dtype=torch.float64, device="cpu")
    levels = _alpha_bar(times * (1 - CLEANEST) + CLEANEST)
    betas = torch.cat(
        (torch.tensor([1e-8], dtype=torch.float64, device="cpu"), 1 - levels[1:] / levels[:-1])
    )
    kept = (1 - betas).sqrt().cumprod(0)
    beta, now = betas[1:], (1 - betas[1:]).cumprod(0)
    before = torch.cat((torch.ones(1, dtype=torch.float64, device="cpu"), now[:-1]))
    return LargeSteps(
        betas=betas,
        kept=kept,
        added=(1 - kept.square()).sqrt(),
        from_clean=beta * before.sqrt() / (1 - now),
        from_noisier=(1 - before) * (1 - beta).sqrt() / (1 - now),
        deviation=(beta * (1 - before) / (1 - now)).sqrt(),
    )
