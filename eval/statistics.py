"""Distances between sets of features, from float64 moments of blocks folded in their order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

from hvdm.errors import RunError

Floats = npt.NDArray[np.float64]
LEAST_SAMPLES_PER_FEATURE = 2.5
"""Below this many samples per feature the jackknife does not remove the bias (docs: evaluation)."""
TOLERANCE = 1e-5
"""A distance below zero by less than this part of the traces is rounding, and zero."""


@dataclass(frozen=True)
class Moments:
    """How many features, their mean, and the sum of the outer products of their deviations."""

    count: int
    mean: Floats
    scatter: Floats

    @property
    def dimensions(self) -> int:
        return len(self.mean)

    def covariance(self, ddof: int = 1) -> Floats:
        return np.asarray(self.scatter / (self.count - ddof))


def moments(features: npt.ArrayLike) -> Moments:
    """Of features `N D`."""
    rows = np.asarray(features, dtype=np.float64)
    mean = rows.mean(axis=0)
    centred = rows - mean
    return Moments(len(rows), mean, centred.T @ centred)


def merge(a: Moments, b: Moments) -> Moments:
    """Of both sets together; centred, so features far from zero lose no digits."""
    count = a.count + b.count
    apart = b.mean - a.mean
    scatter = a.scatter + b.scatter + np.outer(apart, apart) * (a.count * b.count / count)
    return Moments(count, a.mean + apart * (b.count / count), scatter)


def without(whole: Moments, part: Moments) -> Moments:
    """The inverse of `merge`."""
    count = whole.count - part.count
    mean = whole.mean + (whole.mean - part.mean) * (part.count / count)
    apart = part.mean - mean
    scatter = whole.scatter - part.scatter
    return Moments(
        count, mean, scatter - np.outer(apart, apart) * (count * part.count / whole.count)
    )


def fold(blocks: Mapping[int, Moments]) -> Moments:
    """Of all blocks, in the order of their numbers: the same bits whoever measured which."""
    return reduce(merge, (blocks[number] for number in sorted(blocks)))


def frechet_distance(a: Moments, b: Moments, ddof: int = 1) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 sqrt(S_a S_b))."""
    sides = [{"mu": m.mean, "sigma": m.covariance(ddof)} for m in (a, b)]
    distance = float(fid_statistics_to_metric(*sides, verbose=False)[KEY_METRIC_FID])
    scale = sum(float(np.trace(side["sigma"])) for side in sides)
    if distance < -TOLERANCE * scale or not np.isfinite(distance):
        raise RunError(
            f"the Frechet distance came out as {distance:.3g}: {min(a.count, b.count)} samples are "
            f"too few for {a.dimensions} features of this spread; measure more clips"
        )
    return max(0.0, distance)


def null_bias(reference: Moments, count: int | None = None) -> float:
    """The distance expected between two samples of `count` from one Gaussian like this one."""
    n = count or reference.count
    spread = np.linalg.eigvalsh(reference.covariance()).clip(min=0)
    sums = spread[:, None] + spread[None, :]
    pairs = np.outer(spread, spread) * (1 + np.eye(len(spread)))
    shares = np.divide(pairs, sums, out=np.zeros_like(pairs), where=sums > 0)
    return float(2 * spread.sum() / n + shares.sum() / (n - 1))


class Jackknife(NamedTuple):
    standard_error: float
    debiased: float


def jackknife(value: float, left_out: Sequence[float], sizes: Sequence[int]) -> Jackknife:
    """Delete-a-block jackknife for blocks of unequal sizes (Busing et al. 1999).

    `left_out[j]` is the value without block j, of `sizes[j]` samples.
    """
    theta, m = np.asarray(left_out, np.float64), np.asarray(sizes, np.float64)
    blocks, share = len(theta), m / m.sum()
    debiased = blocks * value - float(((1 - share) * theta).sum())
    pseudo = value / share - (1 / share - 1) * theta
    variance = float((np.square(pseudo - debiased) / (1 / share - 1)).mean())
    return Jackknife(variance**0.5, debiased)


class Estimate(NamedTuple):
    """A distance with its error. What the data cannot give is None, and `reason` says why."""

    value: float
    standard_error: float | None
    debiased: float | None
    null_bias: float
    left_out: list[float]
    reason: str | None


def estimate(real: Mapping[int, Moments], other: Mapping[int, Moments], ddof: int = 1) -> Estimate:
    """The distance of two sets, cut into blocks alike, with its jackknife error."""
    whole, whole_other = fold(real), fold(other)
    value, bias = frechet_distance(whole, whole_other, ddof), null_bias(whole)
    numbers = sorted(real)
    sizes = [real[number].count for number in numbers]
    if len(sizes) < 2 or whole.count - max(sizes) < 2:
        return Estimate(value, None, None, bias, [], f"{whole.count} clips are too few for blocks")
    left_out = [
        frechet_distance(without(whole, real[j]), without(whole_other, other[j]), ddof)
        for j in numbers
    ]
    knife, reason = jackknife(value, left_out, sizes), too_few(whole)
    debiased = None if reason else knife.debiased
    return Estimate(value, knife.standard_error, debiased, bias, left_out, reason)


def too_few(whole: Moments) -> str | None:
    """Why there is no debiased value, or None."""
    ratio = whole.count / whole.dimensions
    if ratio >= LEAST_SAMPLES_PER_FEATURE:
        return None
    return (
        f"no debiased value: {whole.count} clips are {ratio:.2g} per feature, and below "
        f"{LEAST_SAMPLES_PER_FEATURE} the jackknife does not remove the bias"
    )
