"""Measures of two sets of features besides the Frechet distance: KID, KVD, IS, precision."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_isc import (
    KEY_METRIC_ISC_MEAN,
    KEY_METRIC_ISC_STD,
    isc_features_to_metric,
)
from torch_fidelity.metric_kid import (
    KEY_METRIC_KID_MEAN,
    KEY_METRIC_KID_STD,
    kid_features_to_metric,
)

from eval.numbers.jackknife import jackknife
from eval.numbers.statistics import Floats

Groups = Sequence[Floats]
"""Features `N D`, cut into the blocks that the jackknife leaves out."""
SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020
SPLITS, NEIGHBOURS = 10, 3
PAIRS_AT_ONCE = 1 << 20


class Scored(NamedTuple):
    """A value, its jackknife error, and the value without each block."""

    value: float
    standard_error: float | None
    left_out: list[float]


def mmd2(real: Groups, other: Groups) -> Scored:
    """Unbiased MMD^2 over all pairs, kernel (x.y/D + 1)^3; what DIGAN and PVDM call KVD.

    The kernel is summed once for every pair of blocks, so leaving one out costs nothing.
    """
    within = [_sums(side, side) - np.diag([_diagonal(block) for block in side])
              for side in (real, other)]  # fmt: skip
    between = _sums(real, other)
    sizes = [np.array([len(block) for block in side]) for side in (real, other)]

    def of(kept: Sequence[int]) -> float:
        n, m = (int(size[list(kept)].sum()) for size in sizes)
        inside = [float(sums[np.ix_(kept, kept)].sum()) for sums in within]
        cross = float(between[np.ix_(kept, kept)].sum())
        return inside[0] / (n * (n - 1)) + inside[1] / (m * (m - 1)) - 2 * cross / (n * m)

    return _scored(of, real, other)


def _sums(a: Groups, b: Groups) -> Floats:
    return np.array([[_kernel_sum(x, y) for y in b] for x in a])


def _kernel_sum(x: Floats, y: Floats) -> float:
    step = _rows_at_once(len(y))
    parts = range(0, len(x), step)
    return float(sum(_kernel(x[at : at + step] @ y.T, x.shape[1]).sum() for at in parts))


def _rows_at_once(others: int) -> int:
    return max(1, PAIRS_AT_ONCE // max(1, others))


def _diagonal(x: Floats) -> float:
    return float(_kernel((x * x).sum(axis=1), x.shape[1]).sum())


def _kernel(products: Floats, dimensions: int) -> Floats:
    return np.asarray((products / dimensions + 1) ** 3)


def _scored(of: Callable[[list[int]], float], real: Groups, other: Groups) -> Scored:
    """The value over all blocks and without each; both sides hold equally many blocks."""
    blocks = list(range(len(real)))
    value = of(blocks)
    if len(blocks) < 2 or min(_left(real), _left(other)) < 2:
        return Scored(value, None, [])
    left_out = [of([k for k in blocks if k != j]) for j in blocks]
    totals = [sum(map(len, side)) for side in (real, other)]
    sizes = [len(a) / totals[0] + len(b) / totals[1] for a, b in zip(real, other, strict=True)]
    return Scored(value, jackknife(value, left_out, sizes).standard_error, left_out)


def _left(side: Groups) -> int:
    return sum(map(len, side)) - max(map(len, side))


def joined(groups: Groups) -> Floats:
    """One array of all groups, which is none anew where they are neighbours in one already."""
    whole, places = groups[0].base, [group.ctypes.data for group in groups]
    one = all(group.base is whole for group in groups) and places == sorted(places)
    if one and isinstance(whole, np.ndarray) and len(whole) == sum(map(len, groups)):
        return np.asarray(whole)
    return np.concatenate(groups)


class Subsets(NamedTuple):
    value: float
    deviation: float
    size: int


def kid(real: Floats, other: Floats) -> Subsets:
    """torch-fidelity's: the mean over subsets, and their spread, which is no standard error."""
    size = min(SUBSET_SIZE, len(real), len(other))
    found = kid_features_to_metric(
        torch.from_numpy(other), torch.from_numpy(real), kid_subsets=SUBSETS,
        kid_subset_size=size, rng_seed=SEED, verbose=False,
    )  # fmt: skip
    return Subsets(found[KEY_METRIC_KID_MEAN], found[KEY_METRIC_KID_STD], size)


def inception_score(logits: Floats) -> Subsets:
    """torch-fidelity's: the mean over ten splits of a seeded order, and their spread."""
    splits = min(SPLITS, len(logits))
    found = isc_features_to_metric(torch.from_numpy(logits), splits, True, SEED)
    return Subsets(found[KEY_METRIC_ISC_MEAN], found[KEY_METRIC_ISC_STD], splits)


def precision_recall(real: Groups, other: Groups, k: int = NEIGHBOURS) -> dict[str, Scored]:
    """Shares of samples within the other set's k-nearest balls, with errors over blocks."""
    found: dict[tuple[int, ...], dict[str, float]] = {}

    def of(name: str) -> Callable[[list[int]], float]:
        def measured(kept: list[int]) -> float:
            if tuple(kept) not in found:
                found[tuple(kept)] = _precision_recall(real, other, kept, k)
            return found[tuple(kept)][name]

        return measured

    return {name: _scored(of(name), real, other) for name in ("precision", "recall")}


def _precision_recall(real: Groups, other: Groups, kept: list[int], k: int) -> dict[str, float]:
    every = len(kept) == len(real)
    made, true = (
        torch.from_numpy(joined(side) if every else np.concatenate([side[j] for j in kept]))
        for side in (other, real)
    )
    k = min(k, len(made) - 1, len(true) - 1)
    return {"precision": _covered(made, true, k), "recall": _covered(true, made, k)}


def _covered(rows: Tensor, by: Tensor, k: int) -> float:
    """The share of rows within the ball of any other one, which reaches to its k-th neighbour."""
    radii = torch.cat([near.kthvalue(k + 1).values for near in _distances(by, by)])
    inside = torch.cat([(near <= radii).any(dim=1) for near in _distances(rows, by)])
    return float(inside.float().mean())


def _distances(rows: Tensor, others: Tensor) -> Iterator[Tensor]:
    """Of some rows at a time to all others."""
    for part in rows.split(_rows_at_once(len(others))):
        yield torch.cdist(part, others)
