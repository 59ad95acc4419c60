"""Moments of features in float64, block by block, and the Frechet distance of two sets."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt

from hvdm.errors import RunError

Floats = npt.NDArray[np.float64]
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
    first, second = a.covariance(ddof), b.covariance(ddof)
    apart = a.mean - b.mean
    traces = float(np.trace(first) + np.trace(second))
    distance = float(apart @ apart) + traces - 2 * _trace_of_root(first, second)
    return _not_below_zero(distance, traces, a, b)


def _trace_of_root(first: Floats, second: Floats) -> float:
    """tr sqrt(AB) as the roots of the symmetric F'BF with A = FF': real, and no complex root.

    A Cholesky factor costs a tenth of the eigenvectors, and is there when samples outnumber
    features.
    """
    try:
        factor = np.linalg.cholesky(first)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(first)
        factor = vectors * np.sqrt(values.clip(min=0))
    inner = factor.T @ second @ factor
    roots = np.linalg.eigvalsh((inner + inner.T) / 2)
    return float(np.sqrt(roots.clip(min=0)).sum())


def factor_distance(x: npt.ArrayLike, y: npt.ArrayLike, ddof: int = 1) -> float:
    """The same from features `N D`, exact where the samples are fewer than the features.

    Covariances of few samples are singular, and the root of a zero that was rounded is not small.
    tr sqrt(S_a S_b) is the nuclear norm of the product of the centred features, which needs none.
    """
    a, b = (np.asarray(side, dtype=np.float64) for side in (x, y))
    centred_a, centred_b = (side - side.mean(axis=0) for side in (a, b))
    shares = len(a) - ddof, len(b) - ddof
    traces = float((centred_a**2).sum() / shares[0] + (centred_b**2).sum() / shares[1])
    nuclear = float(np.linalg.svd(centred_a @ centred_b.T, compute_uv=False).sum())
    apart = a.mean(axis=0) - b.mean(axis=0)
    distance = float(apart @ apart) + traces - 2 * nuclear / (shares[0] * shares[1]) ** 0.5
    # what is left of two equal sets is rounding of the last digits
    return 0.0 if abs(distance) < 1e-12 * traces else distance


def _not_below_zero(distance: float, traces: float, a: Moments, b: Moments) -> float:
    if distance < -TOLERANCE * traces or not np.isfinite(distance):
        raise RunError(
            f"the Frechet distance came out as {distance:.3g}: {min(a.count, b.count)} samples are "
            f"too few for {a.dimensions} features of this spread; measure more clips"
        )
    return max(0.0, distance)


def null_bias(reference: Moments, count: int | None = None, other: int | None = None) -> float:
    """The distance expected between two samples from one Gaussian like this one.

    Of `count` and `other` rows; of as many as the reference has unless told.
    """
    n = count or reference.count
    m = other or n
    spread = np.linalg.eigvalsh(reference.covariance()).clip(min=0)
    sums = spread[:, None] + spread[None, :]
    pairs = np.outer(spread, spread) * (1 + np.eye(len(spread)))
    shares = np.divide(pairs, sums, out=np.zeros_like(pairs), where=sums > 0)
    means = float(spread.sum()) * (1 / n + 1 / m)
    return means + float(shares.sum()) * (1 / (n - 1) + 1 / (m - 1)) / 2
