"""Any engine at any number of ranks goes on from what any other wrote."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hvdm.checkpoint import checkpoint
from hvdm.config import RunConfig
from hvdm.events import Reporter
from hvdm.run import run
from launcher.verbs.distance import difference
from tests.support.ranks import Ranks
from tests.support.toys import ADAMW, run_config
from tests.train.test_engines import engine

pytestmark = pytest.mark.processes

FLOW, PAIR = "tests.sixth.toy_flow", "tests.support.toys"
SOURCES = {None: 1, 0: 2, 1: 2, 2: 2, 3: 2}
"""Stage (None is plain torch), and on how many ranks it saves."""
WHOLE = bool(os.environ.get("HVDM_SOAK"))

Case = tuple[str, int | None, int | None, int]


def cases() -> Iterator[Case]:
    """All of them in `make soak`; otherwise every source and every target once for each recipe."""
    for recipe in (FLOW, PAIR):
        stages = [stage for stage in SOURCES if recipe == FLOW or stage != 3]
        for i, source in enumerate(stages):
            for j, target in enumerate(stages):
                for world in (1, 2, 3):
                    few = j == (i + 2) % len(stages) and world == 1 + (i + 1) % 3
                    if WHOLE or few:
                        yield recipe, source, target, world


def name(case: Case) -> str:
    recipe, source, target, world = case
    return f"{recipe.rsplit('.', 1)[1]}-{source}@{SOURCES[source]}-{target}@{world}"


def ranks_of(world: int, request: pytest.FixtureRequest) -> Ranks:
    ranks: Ranks = request.getfixturevalue({1: "one_rank", 2: "two_ranks", 3: "three_ranks"}[world])
    return ranks


def train(config: RunConfig) -> None:
    run.train(config, sinks=())


def load_and_save(config: RunConfig, out: str) -> None:
    """In a rank process: what was loaded is saved again, without a step."""
    with run._prepared(config, print) as device:
        session = run._session(config, device, Reporter([]))
        found = checkpoint.of_step(Path(config.run), 5)
        for net, moving in session.engines.items():
            checkpoint.restore(found, net, moving, session.averages.get(net))
        checkpoint.save(Path(out), 5, session.engines, session.averages, {})


class Saved:
    """Runs of five steps by engine, made when first asked for."""

    def __init__(self, data: Path, folder: Path, request: pytest.FixtureRequest) -> None:
        self._data, self._folder, self._request = data, folder, request

    def config(self, recipe: str, stage: int | None, adam: bool, precision: str) -> RunConfig:
        folder = self._folder / f"{recipe}-{stage}-{adam}-{precision}"
        config = run_config(folder, self._data, recipe, engine=engine(stage, precision), steps=5)
        config = replace(config, optimizer=ADAMW) if adam else config
        if not folder.exists():
            ranks_of(SOURCES[stage], self._request).run(train, config)
        return config

    def straight(self, recipe: str) -> Path:
        folder = self._folder / f"{recipe}-straight"
        if not folder.exists():
            config = run_config(folder, self._data, recipe, steps=10)
            ranks_of(1, self._request).run(train, config)
        return folder


_SAVED: dict[Path, Saved] = {}


@pytest.fixture
def saved(
    shapes: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Saved:
    if shapes not in _SAVED:
        _SAVED[shapes] = Saved(shapes, tmp_path_factory.mktemp("matrix"), request)
    _SAVED[shapes]._request = request
    return _SAVED[shapes]


@pytest.mark.parametrize("case", list(cases()), ids=name)
def test_five_more_steps_are_those_of_the_undisturbed_run(
    case: Case, saved: Saved, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    recipe, source, target, world = case
    config = saved.config(recipe, source, adam=False, precision="fp32")
    shutil.copytree(config.run, tmp_path / "run")
    config = replace(config, run=str(tmp_path / "run"), engine=engine(target), steps=10)
    ranks_of(world, request).run(train, config)
    straight, end = f"{saved.straight(recipe)}", f"{tmp_path}/run"
    for net, row in difference(straight, end).items():
        assert row["travelled"] > 1e-3 and row["of_travel"] <= 1e-5, (net, row)
    for net, row in difference(straight, end, kind="momentum_buffer").items():
        assert row["relative"] <= 1e-5, (net, row)
    averaged = "generator" if recipe == PAIR else "velocity"
    assert _of_average(straight, end, averaged) <= 1e-6


def _of_average(a: str, b: str, net: str) -> float:
    one, two = (checkpoint.Reader(checkpoint.choose(Path(p), 10), net) for p in (a, b))
    apart = size = 0.0
    for parameter in one.names("ema"):
        left, right = (r.whole("ema", parameter).double() for r in (one, two))
        apart += float((left - right).square().sum())
        size += float(left.square().sum())
    return float((apart / size) ** 0.5)


@pytest.mark.parametrize("case", list(cases()), ids=name)
def test_what_was_loaded_is_what_was_saved_to_the_bit(
    case: Case, saved: Saved, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Weights, both moments of AdamW, and the average."""
    recipe, source, target, world = case
    config = saved.config(recipe, source, adam=True, precision="fp32")
    loading = replace(config, engine=engine(target))
    ranks_of(world, request).run(load_and_save, loading, str(tmp_path / "again"))
    assert _hashes(tmp_path / "again") == _hashes(Path(config.run))


@pytest.mark.parametrize(
    "source, target, world", [(2, 1, 3), (2, 3, 1), (1, None, 2), (3, 2, 3), (0, 3, 2)]
)
def test_bf16_masters_go_from_engine_to_engine(
    source: int,
    target: int | None,
    world: int,
    saved: Saved,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    config = saved.config(FLOW, source, adam=True, precision="bf16")
    loading = replace(config, engine=engine(target, "bf16"))
    ranks_of(world, request).run(load_and_save, loading, str(tmp_path / "again"))
    assert _hashes(tmp_path / "again") == _hashes(Path(config.run))


def _hashes(folder: Path) -> dict[str, dict[str, str]]:
    return checkpoint.hashes(checkpoint.choose(folder, 5))
