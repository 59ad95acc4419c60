from itertools import pairwise, product

import numpy as np
import pytest

from hvdm.data.order import DrawOrder, share
from hvdm.errors import UserError

COUNTS = [(1,), (5,), (3, 4), (7, 7, 7, 5), (1, 0, 9, 2), (40, 1, 33, 26), (100,) * 7]


def epoch_of(order: DrawOrder, epoch: int) -> list[tuple[int, int]]:
    draws = range(epoch * order.samples, (epoch + 1) * order.samples)
    places = [order.locate(draw) for draw in draws]
    assert {place.epoch for place in places} == {epoch}
    return [(place.shard, place.sample) for place in places]


@pytest.mark.parametrize("counts", COUNTS)
def test_every_sample_comes_once_per_epoch(counts: tuple[int, ...]) -> None:
    whole = sorted((shard, i) for shard, count in enumerate(counts) for i in range(count))
    for lanes, window, seed in product((1, 2, 3, 8, 64), (1, 3, 16, 1000), (0, 5)):
        order = DrawOrder(counts, seed, lanes, window)
        assert all(sorted(epoch_of(order, epoch)) == whole for epoch in (0, 1, 7))


def test_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    first = DrawOrder((40, 33, 27), 1, 4, 8)
    again = DrawOrder((40, 33, 27), 1, 4, 8)
    assert epoch_of(first, 0) == epoch_of(again, 0)
    assert epoch_of(first, 0) != epoch_of(first, 1)
    assert epoch_of(first, 0) != epoch_of(DrawOrder((40, 33, 27), 2, 4, 8), 0)


def test_draws_can_be_asked_for_in_any_order() -> None:
    order, shuffled = DrawOrder((40, 33, 27), 1, 16, 4), DrawOrder((40, 33, 27), 1, 16, 4)
    draws = np.random.default_rng(0).permutation(500).tolist()
    found = {draw: shuffled.locate(draw) for draw in draws}
    assert [found[draw] for draw in range(500)] == [order.locate(draw) for draw in range(500)]


def test_a_lane_reads_its_shards_in_sequence() -> None:
    order = DrawOrder((50,) * 8, 0, lanes=4, window=10)
    places = [order.locate(draw) for draw in range(order.samples)]
    for lane in range(4):
        shards = [place.shard for place in places[lane::4]]
        assert sum(a != b for a, b in pairwise(shards)) == 1


def test_neighbours_come_from_distant_shards() -> None:
    order = DrawOrder((10,) * 8, 0, lanes=8, window=10)
    assert len({order.locate(draw).shard for draw in range(8)}) == 8


def test_the_order_is_the_one_that_runs_have_pinned() -> None:
    # A change of this list breaks the resume of every run: numpy may change its permutation.
    order = DrawOrder((5, 3, 4), 0, lanes=2, window=4)
    one = [(0, 3), (0, 0), (0, 1), (0, 2), (0, 4), (2, 0)]
    two = [(2, 3), (1, 0), (2, 2), (2, 1), (1, 1), (1, 2)]
    assert epoch_of(order, 0)[0::2] == one and epoch_of(order, 0)[1::2] == two


def test_memory_does_not_grow_with_samples() -> None:
    order = DrawOrder((10**9, 10**9), 0, lanes=64, window=256)
    for draw in range(0, 4 * 10**9, 10**6):
        order.locate(draw)
    kept = order._shuffle.cache_info()
    assert kept.currsize <= 130 < kept.misses


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(UserError, match="no samples"):
        DrawOrder((), 0, 4, 4)
    with pytest.raises(UserError, match="lanes"):
        DrawOrder((3,), 0, 0, 4)


@pytest.mark.parametrize("batch, world, micro", [*product((1, 5, 8, 12), (1, 2, 3, 8), (1, 2, 4))])
def test_shares_of_all_ranks_are_the_batch(batch: int, world: int, micro: int) -> None:
    shares = [share(batch, micro, rank, world) for rank in range(world)]
    real = [row for part in shares for rows in part for row, weight in rows if weight]
    assert real == list(range(batch))
    assert len({len(part) for part in shares}) == 1
    (size,) = {len(rows) for part in shares for rows in part}
    assert size <= micro
    assert len(shares[0]) * size - -(-batch // world) < len(shares[0])
    assert all(0 <= row < batch for part in shares for rows in part for row, _ in rows)


def test_a_rank_without_rows_repeats_the_first_of_the_batch() -> None:
    assert share(2, 2, 0, 8) == (((0, 0.0),),)


def test_no_share_for_a_rank_outside_the_world() -> None:
    with pytest.raises(UserError, match="rank 2 of 2"):
        share(4, 1, 2, 2)
