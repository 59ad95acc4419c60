"""Pseudo videos (arXiv 2410.20158): frames that lead up to an image, the last of them.

The first frame is the most corrupted one. `blur` blurs each frame into the one before it, `noise`
is a first-order Markov chain; in `blur-high` and `noise-high` a frame comes of the mean of all
later ones. `noise-equal` is of first order, with the noise of `noise-high`; `haar` are low bands.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from hvdm.errors import UserError
from hvdm.ops.wavelet import haar
from hvdm.recipe import Noise

Corruption = Literal["blur", "blur-high", "noise", "noise-high", "noise-equal", "haar"]
KERNEL = 11
PLANE = (2, 3)


@dataclass(frozen=True)
class Ladder:
    """How many frames there are, the image among them, and how one comes of those after it.

    Widths of the blur are exp(rate i); `betas` are the first and the last of the noise.
    """

    frames: int = 4
    corruption: Corruption = "noise-high"
    rate: float = 0.05
    betas: tuple[float, float] = (1e-4, 0.05)

    def made(self, images: Tensor, noise: Noise) -> Tensor:
        """`B C H W` in [-1, 1] -> `B C T H W`, the image last."""
        if self.frames == 1:
            return images[:, :, None]
        return _MAKERS[self.corruption](self, images, noise)


def check_ladder(ladder: Ladder, height: int, width: int) -> None:
    if ladder.frames < 1:
        raise UserError(f"model.frames={ladder.frames} is below 1")
    first, last = ladder.betas
    if not 0 < first <= last < 1:
        raise UserError(f"model.betas=[{first:g},{last:g}]: expected 0 < first <= last < 1")
    if ladder.corruption == "noise-equal" and min(betas_of(ladder), default=1.0) <= 0:
        raise UserError(
            f"model.betas=[{first:g},{last:g}] model.frames={ladder.frames}: noise of high order "
            "does not grow from each frame to the next, which noise-equal needs; lower the last"
        )
    side = min(height, width)
    if ladder.frames > 1 and "blur" in ladder.corruption and side <= KERNEL // 2:
        raise UserError(f"data.height={height} data.width={width}: the blur needs more than 5")
    unit = 2 ** (ladder.frames - 1)
    if ladder.corruption == "haar" and (height % unit or width % unit):
        raise UserError(
            f"model.frames={ladder.frames}: so many low bands need sides of a multiple of {unit}, "
            f"and data.height={height}, data.width={width}"
        )


# Blur


def blur_widths(frames: int, rate: float) -> list[float]:
    """Of each blur in turn, from the image on."""
    return [math.exp(rate * i) for i in range(frames - 1)]


def total_widths(frames: int, rate: float) -> list[float]:
    """Of the one blur that the first ones amount to."""
    return [math.hypot(*blur_widths(count, rate)) for count in range(2, frames + 1)]


def blurred(images: Tensor, width: float) -> Tensor:
    """`B C H W`, by a Gaussian of 11x11 pixels; the border is a mirror."""
    rows, columns = (_blur_of(side, width).to(images) for side in images.shape[2:])
    return rows @ images @ columns.T


def _blur_of(side: int, width: float) -> Tensor:
    """A matrix that blurs one axis: each row has the taps of one pixel."""
    places = torch.arange(KERNEL, dtype=torch.float64, device="cpu") - KERNEL // 2
    bell = torch.exp(-0.5 * (places / width).square())
    pixels = torch.eye(side, dtype=torch.float64, device="cpu")
    mirrored = functional.pad(pixels, (KERNEL // 2,) * 2, mode="reflect")
    return (mirrored.unfold(1, KERNEL, 1) @ (bell / bell.sum())).T


def _blurs(ladder: Ladder, images: Tensor, noise: Noise) -> Tensor:
    later = [images]
    for width in blur_widths(ladder.frames, ladder.rate):
        high = ladder.corruption == "blur-high"
        later.append(blurred(torch.stack(later).mean(0) if high else later[-1], width))
    return torch.stack(later[::-1], 2)


# Noise


def betas_of(ladder: Ladder) -> list[float]:
    (first, last), count = ladder.betas, ladder.frames - 1
    given = [first + (last - first) * i / max(count - 1, 1) for i in range(count)]
    if ladder.corruption != "noise-equal":
        return given
    kept = [1.0, *(1 - spread**2 for _, spread in amounts(mixing(given, high=True)))]
    return [1 - after / before for before, after in pairwise(kept)]


def mixing(betas: Sequence[float], high: bool) -> list[list[float]]:
    """`T T`: frames, the image first, of the image and of independent noises."""
    rows = [[1.0] + [0.0] * len(betas)]
    for t, beta in enumerate(betas, 1):
        sources = rows if high else rows[-1:]
        row = [math.sqrt(1 - beta) * sum(column) / len(sources) for column in zip(*sources)]
        row[t] = math.sqrt(beta)
        rows.append(row)
    return rows


def amounts(rows: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Of each corrupted frame: the image's coefficient, and the deviation of its noise."""
    return [(row[0], math.hypot(*row[1:])) for row in rows[1:]]


def least_error(betas: Sequence[float], high: bool, told: int) -> float:
    """Of the best guess at an image of variance 1 that is told the last `told` frames before it."""
    rows = torch.tensor(mixing(betas, high), dtype=torch.float64)
    joint = rows @ rows.T
    seen, cross = joint[1 : told + 1, 1 : told + 1], joint[0, 1 : told + 1]
    return float(joint[0, 0] - cross @ torch.linalg.solve(seen, cross))


def _noises(ladder: Ladder, images: Tensor, noise: Noise) -> Tensor:
    rows = mixing(betas_of(ladder), ladder.corruption == "noise-high")[::-1]
    shape = (images.shape[1], ladder.frames - 1, *images.shape[2:])
    fresh = noise.randn(shape, "frames").to(images)
    sources = torch.cat((images[:, :, None], fresh), 2)
    return torch.einsum("ts,bcshw->bcthw", torch.tensor(rows).to(images), sources)


# Low bands


def _bands(ladder: Ladder, images: Tensor, noise: Noise) -> Tensor:
    """Each low band at the image's size, with no high bands."""
    later, low = [images], images
    for level in range(1, ladder.frames):
        low = haar(low, PLANE)[:, 0] / 2
        later.append(functional.interpolate(low, scale_factor=2**level, mode="nearest"))
    return torch.stack(later[::-1], 2)


Make = Callable[[Ladder, Tensor, Noise], Tensor]
_MAKERS: dict[str, Make] = {
    **dict.fromkeys(("blur", "blur-high"), _blurs),
    **dict.fromkeys(("noise", "noise-high", "noise-equal"), _noises),
    "haar": _bands,
}
