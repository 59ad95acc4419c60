"""Motion as spectral volumes: the first bins of each pixel's DFT (arXiv 2309.07906, section 4.1).

Motion is displacements from the first frame, `… T 2 H W` in pixels, zero in frame 0; its spectrum
is complex `… K 2 H W`, unnormalised. Models take `… K 4 H W`: Re x, Re y, Im x, Im y.
"""

import math

import torch
from torch import Tensor

ROOT_FLOOR = 1e-12


def spectrum_of(motion: Tensor, bins: int) -> Tensor:
    """`… T 2 H W` -> complex `… K 2 H W`."""
    return torch.fft.rfft(motion, dim=-4)[..., :bins, :, :, :]


def motion_of(spectrum: Tensor, frames: int) -> Tensor:
    """The real motion `… T 2 H W` whose further bins are zero."""
    return torch.fft.irfft(spectrum, n=frames, dim=-4)


def motion_at(spectrum: Tensor, frames: int, times: Tensor) -> Tensor:
    """The Fourier series at any times, in frames: exact between them too."""
    bins = torch.arange(spectrum.shape[-4], device=spectrum.device, dtype=spectrum.real.dtype)
    twice = torch.where((bins == 0) | (2 * bins == frames), 1.0, 2.0) / frames
    angles = 2 * math.pi / frames * times.to(bins)[:, None] * bins
    cosines, sines = angles.cos() * twice, angles.sin() * twice
    return torch.einsum("tk,...kchw->...tchw", cosines, spectrum.real) - torch.einsum(
        "tk,...kchw->...tchw", sines, spectrum.imag
    )


def as_channels(spectrum: Tensor) -> Tensor:
    """Complex `… K 2 H W` -> real `… K 4 H W`."""
    return torch.cat((spectrum.real, spectrum.imag), -3)


def as_complex(channels: Tensor) -> Tensor:
    """Real `… K 4 H W` -> complex `… K 2 H W`."""
    real, imaginary = channels.chunk(2, -3)
    return torch.complex(real.contiguous(), imaginary.contiguous())


def normalised(channels: Tensor, scales: Tensor) -> Tensor:
    """sign(S) sqrt(|S| / s_k), of a scale for each frequency (eq. 4): all are about as large."""
    share = channels / scales.to(channels)[:, None, None, None]
    return share.sign() * share.abs().clamp_min(ROOT_FLOOR).sqrt() * (share != 0)


def denormalised(values: Tensor, scales: Tensor) -> Tensor:
    """sign(y) y^2 s_k."""
    return values * values.abs() * scales.to(values)[:, None, None, None]


def coherence(spectrum: Tensor) -> Tensor:
    """`B K 2 H W` -> `B K-1`: |sum S_k conj(S_k+1)| / (|S_k| |S_k+1|) of neighbours."""
    rows = spectrum.flatten(2)
    product = (rows[:, :-1] * rows[:, 1:].conj()).sum(-1).abs()
    sizes = torch.linalg.vector_norm(rows, dim=-1)
    return product / (sizes[:, :-1] * sizes[:, 1:]).clamp_min(ROOT_FLOOR)
