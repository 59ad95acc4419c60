"""Standard errors and debiased values from blocks left out, and extrapolation to no bias."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from eval.numbers.statistics import Floats, Moments, fold, frechet_distance, null_bias, without

LEAST_SAMPLES_PER_FEATURE = 2.5
"""Below this many samples per feature the jackknife does not remove the bias (docs: evaluation)."""
LEAST_BLOCKS_OF_AN_INTERVAL = 4
NORMAL_975 = 1.959963984540054


class Jackknife(NamedTuple):
    standard_error: float
    debiased: float


def jackknife(value: float, left_out: Sequence[float], sizes: Sequence[float]) -> Jackknife:
    """Delete-a-block jackknife for blocks of unequal sizes (Busing et al. 1999).

    `left_out[j]` is the value without block j, of `sizes[j]` samples.
    """
    theta, m = np.asarray(left_out, np.float64), np.asarray(sizes, np.float64)
    blocks, share = len(theta), m / m.sum()
    debiased = blocks * value - float(((1 - share) * theta).sum())
    pseudo = value / share - (1 / share - 1) * theta
    variance = float((np.square(pseudo - debiased) / (1 / share - 1)).mean())
    return Jackknife(variance**0.5, debiased)


def interval(centre: float, error: float, blocks: int) -> tuple[float, float] | None:
    """The 95 % interval, by Student's t for the few blocks that the error came from."""
    if blocks < LEAST_BLOCKS_OF_AN_INTERVAL:
        return None
    reach = student_975(blocks - 1) * error
    return centre - reach, centre + reach


def student_975(degrees: int) -> float:
    """The 97.5 % point of Student's t (Abramowitz and Stegun 26.7.5); for 3 degrees or more."""
    z = NORMAL_975
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    fourth = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + first / degrees + second / degrees**2 + third / degrees**3 + fourth / degrees**4


class Estimate(NamedTuple):
    """A distance with its error. What the data cannot give is None, and `reason` says why."""

    value: float
    standard_error: float | None
    debiased: float | None
    null_bias: float
    left_out: list[float]
    reason: str | None

    @property
    def interval(self) -> tuple[float, float] | None:
        if self.debiased is None or self.standard_error is None:
            return None
        return interval(self.debiased, self.standard_error, len(self.left_out))


Blocks = Mapping[int, Moments]
Distance = Callable[[Moments, Moments, int | None], float]
"""Of two sets; the number of the block that both are without, for those who keep features."""


def estimate(
    real: Blocks, other: Blocks, ddof: int = 1, distance: Distance | None = None
) -> Estimate:
    """The distance of two sets, cut into blocks alike, with its jackknife error."""
    measure = distance or (lambda a, b, _: frechet_distance(a, b, ddof))
    whole, whole_other = fold(real), fold(other)
    value = measure(whole, whole_other, None)
    bias = null_bias(whole, whole.count, whole_other.count)
    numbers = sorted(real)
    if not _can_leave_out(real) or not _can_leave_out(other):
        few = min(whole.count, whole_other.count)
        return Estimate(value, None, None, bias, [], f"{few} clips are too few for blocks")
    left_out = [
        measure(without(whole, real[j]), without(whole_other, other[j]), j) for j in numbers
    ]
    knife, reason = jackknife(value, left_out, sizes_of(real, other)), too_few(whole, whole_other)
    debiased = None if reason else knife.debiased
    return Estimate(value, knife.standard_error, debiased, bias, left_out, reason)


def sizes_of(real: Blocks, other: Blocks) -> list[float]:
    """Each block's share of both sides together."""
    totals = [sum(block.count for block in side.values()) for side in (real, other)]
    return [real[j].count / totals[0] + other[j].count / totals[1] for j in sorted(real)]


def _can_leave_out(blocks: Blocks) -> bool:
    sizes = [block.count for block in blocks.values()]
    return len(sizes) >= 2 and sum(sizes) - max(sizes) >= 2


def too_few(*sides: Moments) -> str | None:
    """Why there is no debiased value, or None."""
    few = min(sides, key=lambda side: side.count)
    ratio = few.count / few.dimensions
    if ratio >= LEAST_SAMPLES_PER_FEATURE:
        return None
    return (
        f"no debiased value: {few.count} samples are {ratio:.2g} per feature, and below "
        f"{LEAST_SAMPLES_PER_FEATURE} the jackknife does not remove the bias"
    )


class Extrapolation(NamedTuple):
    """The line through the mean distances of smaller and smaller parts, at no 1/N."""

    value: float
    points: list[dict[str, float]]


def extrapolate(real: Blocks, other: Blocks, ddof: int = 1) -> Extrapolation | None:
    """Linear in 1/N on both sides (after arXiv 1911.07023, which does one side).

    None where there are not enough samples for two sizes.
    """
    numbers = sorted(real)
    least = fold(real).dimensions
    points = []
    for parts in (1, 2, 4, 5, 10):
        cuts = [cut.tolist() for cut in np.array_split(numbers, parts)]
        sides = [(_of(real, cut), _of(other, cut)) for cut in cuts if cut]
        if len(sides) == parts and all(min(a.count, b.count) > least for a, b in sides):
            points.append(_point(sides, ddof))
    if len(points) < 2:
        return None
    return Extrapolation(_intercept(points), points)


def _of(blocks: Blocks, numbers: Sequence[int]) -> Moments:
    return fold({number: blocks[number] for number in numbers})


def _point(sides: Sequence[tuple[Moments, Moments]], ddof: int) -> dict[str, float]:
    inverse = np.mean([(1 / a.count + 1 / b.count) / 2 for a, b in sides])
    value = np.mean([frechet_distance(a, b, ddof) for a, b in sides])
    return {"samples": float(1 / inverse), "value": float(value), "parts": float(len(sides))}


def _intercept(points: Sequence[Mapping[str, float]]) -> float:
    x: Floats = np.asarray([1 / point["samples"] for point in points])
    y: Floats = np.asarray([point["value"] for point in points])
    slope, start = np.polyfit(x, y, 1)
    return float(start)
