"""Which sample a draw is: a function of the seed and the counts, never of rank or process.

Draws run on across epochs: draw d is position d mod N of epoch d // N. In each epoch the shards are
permuted and their samples laid end to end; that sequence is cut into lanes, contiguous segments of
equal length (to one), and each lane is shuffled within windows. Position p is in lane p mod lanes,
so neighbours in a batch come from distant shards, and every lane reads its shards in sequence.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hvdm import rng
from hvdm.errors import UserError

Ints = npt.NDArray[np.int64]
MicroBatch = tuple[tuple[int, float], ...]
"""Rows of a global batch with their weights."""


class Place(NamedTuple):
    """A sample: the epoch that meets it, its shard, its number within the shard."""

    epoch: int
    shard: int
    sample: int


class DrawOrder:
    """The order of a data set; memory grows with shards and lanes, not with samples."""

    def __init__(self, counts: Sequence[int], seed: int, lanes: int, window: int) -> None:
        self.counts: Ints = np.asarray(counts, dtype=np.int64)
        self.samples = int(self.counts.sum())
        _check(self.samples, lanes, window)
        self.seed, self.lanes, self.window = seed, min(lanes, self.samples), window
        # At an epoch's end a batch holds draws of two epochs, so two windows per lane are live.
        self._epoch = lru_cache(maxsize=4)(self._shuffled_shards)
        self._shuffle = lru_cache(maxsize=2 * self.lanes + 2)(self._shuffled_window)

    def locate(self, draw: int) -> Place:
        """The sample of a draw."""
        if draw < 0:
            raise ValueError(f"draws start at 0, got {draw}")
        epoch, position = divmod(draw, self.samples)
        return self._at(epoch, self._in_sequence(epoch, position))

    def _at(self, epoch: int, number: int) -> Place:
        shards, ends = self._epoch(epoch)
        slot = int(np.searchsorted(ends, number, side="right"))
        shard = int(shards[slot])
        return Place(epoch, shard, number - int(ends[slot] - self.counts[shard]))

    def _in_sequence(self, epoch: int, position: int) -> int:
        """Where the epoch's sequence holds what comes at this position."""
        place, lane = divmod(position, self.lanes)
        short, longer = divmod(self.samples, self.lanes)
        start, length = lane * short + min(lane, longer), short + (lane < longer)
        window, within = divmod(place, self.window)
        first = window * self.window
        size = min(self.window, length - first)
        return start + first + int(self._shuffle(epoch, lane, window, size)[within])

    def _shuffled_shards(self, epoch: int) -> tuple[Ints, Ints]:
        shards = rng.numpy_generator(self.seed, epoch, "shards").permutation(len(self.counts))
        return shards, np.cumsum(self.counts[shards])

    def _shuffled_window(
        self, epoch: int, lane: int, window: int, size: int
    ) -> npt.NDArray[np.uint32]:
        generator = rng.numpy_generator(self.seed, epoch, lane, window, "samples")
        return generator.permutation(size).astype(np.uint32)


def _check(samples: int, lanes: int, window: int) -> None:
    if samples < 1:
        raise UserError("the data set has no samples; look at it with `hvdm data stats`")
    if lanes < 1 or window < 1:
        raise UserError(f"lanes and window are at least 1, got lanes={lanes} window={window}")


def share(
    batch: int, micro_batch: int, rank: int, world: int, group: int = 1
) -> tuple[MicroBatch, ...]:
    """What one rank runs of a global batch: equally many equal micro-batches on every rank.

    Rank r owns groups floor(r·G/W) up to floor((r+1)·G/W) of the batch's G, which are `group` rows
    of consecutive draws. They are spread over as few micro-batches as the limit allows, and
    padding, which repeats a group with weight 0, is as little as that gives.
    """
    if min(batch, micro_batch, world) < 1 or not 0 <= rank < world:
        raise UserError(
            f"no share of batch={batch} micro_batch={micro_batch} for rank {rank} of {world}: "
            "all are at least 1 and ranks count from 0"
        )
    check_groups(batch, micro_batch, group)
    groups = batch // group
    own = range(rank * groups // world, (rank + 1) * groups // world)
    most = -(-groups // world)
    parts = -(-most // (micro_batch // group))
    size = -(-most // parts)
    slots = parts * size
    padding = (own[-1] if own else 0, 0.0)
    chosen = [(one, 1.0) for one in own] + [padding] * (slots - len(own))
    rows = [(one * group + row, weight) for one, weight in chosen for row in range(group)]
    step = size * group
    return tuple(tuple(rows[at : at + step]) for at in range(0, len(rows), step))


def check_groups(batch: int, micro_batch: int, group: int) -> None:
    """Groups are never cut."""
    for key, rows in (("batch", batch), ("micro_batch", micro_batch)):
        if rows % group:
            raise UserError(
                f"{key}={rows}: the recipe's losses work on groups of {group} rows, so it has to "
                f"be a multiple of {group}"
            )
