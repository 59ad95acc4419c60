"""Several data sets by weight: which of them a draw is from, and which of its own draws it is.

Draws come in blocks. A block holds a fixed number of draws of each data set, shuffled by the seed
and the block's number, so each data set goes through its own epochs in its own order.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hvdm import rng
from hvdm.errors import UserError

LONGEST = 1000
"""Draws in a block where the weights are not whole numbers."""


class Turn(NamedTuple):
    """A data set by its number, and the number of the draw among those of that data set."""

    source: int
    draw: int


class Mixture:
    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self.seed, self.shares = seed, shares(weights)
        self.block = sum(self.shares)
        self._shuffle = lru_cache(maxsize=8)(self._shuffled_block)

    def turn(self, draw: int) -> Turn:
        """Whose turn a draw is."""
        if len(self.shares) == 1:
            return Turn(0, draw)
        block, within = divmod(draw, self.block)
        sources, before = self._shuffle(block)
        source = int(sources[within])
        return Turn(source, block * self.shares[source] + int(before[within]))

    def _shuffled_block(self, block: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        random = rng.numpy_generator(self.seed, block, "mixture")
        sources = random.permutation(np.repeat(np.arange(len(self.shares)), self.shares))
        before = np.zeros_like(sources)
        for source, share in enumerate(self.shares):
            before[sources == source] = np.arange(share)
        return sources, before


def shares(weights: Sequence[float]) -> tuple[int, ...]:
    """Draws of each data set in a block; whole weights are kept as they are."""
    if not weights or min(weights) <= 0:
        raise UserError(f"the weights of a mixture are above 0, got {list(weights)}")
    if all(float(weight).is_integer() for weight in weights) and sum(weights) <= LONGEST:
        return tuple(int(weight) for weight in weights)
    exact = np.asarray(weights, np.float64) / sum(weights) * LONGEST
    rounded = np.maximum(np.floor(exact), 1).astype(np.int64)
    # The largest remainders get what rounding down left over.
    for source in np.argsort(rounded - exact, kind="stable")[: LONGEST - int(rounded.sum())]:
        rounded[source] += 1
    return tuple(int(share) for share in rounded)
