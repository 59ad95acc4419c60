"""Gaussian diffusion q(x_t | x_0) (DDPM, arXiv 2006.11239, eq. 4), and betas for it.

Tables are float64 on the CPU, also where a default device is set; what meets a sample takes the
sample's device and dtype.
"""

import math

import torch
from torch import Tensor


def sqrt_linear_betas(steps: int = 1000, first: float = 0.0015, last: float = 0.0195) -> Tensor:
    """beta_t = linspace(sqrt(first), sqrt(last))^2, as in latent diffusion (arXiv 2112.10752)."""
    roots = torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64, device="cpu")
    return roots.square()


def linear_betas(steps: int = 1000) -> Tensor:
    """0.0001 to 0.02 in 1,000 steps (DDPM, section 4), and as much noise in another number."""
    scale = 1000 / steps
    return torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64, device="cpu")


def cosine_betas(steps: int = 1000) -> Tensor:
    """alpha-bar along a squared cosine (improved DDPM, arXiv 2102.09672, eq. 17)."""
    places = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device="cpu")
    kept = torch.cos((places + 0.008) / 1.008 * math.pi / 2).square()
    return (1 - kept[1:] / kept[:-1]).clamp(max=0.999)


def alpha_bars(betas: Tensor) -> Tensor:
    """Cumulative product of 1 - beta (DDPM, section 2)."""
    return torch.cumprod(1 - betas, 0)


def signal_and_noise(alpha_bar: Tensor, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), one per row, to be broadcast over `like`."""
    chosen = alpha_bar.to(t.device)[t].reshape(-1, *[1] * (like.ndim - 1))
    return chosen.sqrt().to(like), (1 - chosen).sqrt().to(like)


def q_sample(x0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps (DDPM, eq. 4); `t` is one per row."""
    signal, noise = signal_and_noise(alpha_bar, t, x0)
    return signal * x0 + noise * eps


def x0_from_eps(x: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """The x_0 that `q_sample` would have made `x` from with this `eps`."""
    signal, noise = signal_and_noise(alpha_bar, t, x)
    return (x - noise * eps) / signal


def v_from(x0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 (arXiv 2202.00512, appendix D)."""
    signal, noise = signal_and_noise(alpha_bar, t, x0)
    return signal * eps - noise * x0


def eps_from_v(x: Tensor, t: Tensor, v: Tensor, alpha_bar: Tensor) -> Tensor:
    """The eps that `x` and `v` go back to."""
    signal, noise = signal_and_noise(alpha_bar, t, x)
    return noise * x + signal * v
