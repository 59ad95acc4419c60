from collections import Counter
from pathlib import Path

import pytest

from data_tools.synthetic.making import make
from hvdm.data.loader import ClipSpec, Loader
from hvdm.data.mix import Mixture, shares
from hvdm.errors import UserError

SPEC = ClipSpec(frames=2, height=16, width=16)


def test_shares_are_the_weights() -> None:
    assert shares([3, 1]) == (3, 1)
    assert shares([0.5, 0.25, 0.25]) == (500, 250, 250)
    assert sum(shares([1 / 3, 2 / 3, 1e-9])) == 1000
    with pytest.raises(UserError, match="above 0"):
        shares([1, 0])


def test_each_data_set_goes_through_its_own_draws_in_order() -> None:
    mixture = Mixture([3, 1, 2], seed=4)
    turns = [mixture.turn(draw) for draw in range(600)]
    assert Counter(turn.source for turn in turns) == {0: 300, 1: 100, 2: 200}
    for source in range(3):
        own = [turn.draw for turn in turns if turn.source == source]
        assert own == list(range(len(own)))
    assert mixture.turn(555) == turns[555]
    assert [Mixture([3, 1, 2], 5).turn(draw) for draw in range(600)] != turns


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("mixed")
    for name, count, seed in (("a", 9, 0), ("b", 4, 1)):
        make(folder / name, seed, train=count, test=0, per_shard=3, frames=2, height=16, width=16)
    return folder / "a" / "train", folder / "b" / "train"


def test_a_mixture_keeps_the_epochs_of_each(two_sets: tuple[Path, Path]) -> None:
    a, b = two_sets
    with Loader({str(a): 3, str(b): 1}, SPEC, lanes=2, window=2) as loader:
        batch = loader.rows(range(48))
        steps = [part for parts in loader.steps(0, 6, 8, 8, 0, 1) for part in parts]
        assert [key for part in steps for key in part.keys] == list(batch.keys)
        assert len(loader.identity()["mixture"]) == 2 and len(loader) == 13
        sources = [loader.mixture.turn(draw).source for draw in range(48)]
        with pytest.raises(UserError, match="have no numbers"):
            loader.sequential([0])
    of_a = [key for key, source in zip(batch.keys, sources, strict=True) if source == 0]
    assert len(of_a) == 36 and all(count == 4 for count in Counter(of_a).values())
