"""Percentiles of more numbers than fit into memory: counts that workers add up."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

LOWEST, HIGHEST, PER_DECADE = 1e-4, 1e5, 100
"""A bin is 2.3 % wide; what is smaller or larger counts in the first or the last one."""
BINS = round(PER_DECADE * np.log10(HIGHEST / LOWEST))

Counts = npt.NDArray[np.int64]


def counted(values: npt.NDArray[np.floating]) -> Counts:
    """How many absolute values lie in each bin."""
    size = np.maximum(np.abs(values.astype(np.float64)).ravel(), LOWEST)
    places = (PER_DECADE * np.log10(size / LOWEST)).astype(np.int64)
    return np.bincount(np.minimum(places, BINS - 1), minlength=BINS).astype(np.int64)


def percentile(counts: Sequence[int] | Counts, share: float) -> float:
    """Below which this share of all values is, between the borders of its bin."""
    up_to = np.cumsum(counts)
    wanted = share * up_to[-1]
    place = int(np.searchsorted(up_to, wanted))
    before = up_to[place - 1] if place else 0
    within = (wanted - before) / max(1, up_to[place] - before)
    return float(LOWEST * 10 ** ((place + within) / PER_DECADE))
