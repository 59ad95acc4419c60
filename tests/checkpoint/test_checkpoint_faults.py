"""Killed at every named point on each rank: the old or the new checkpoint is there, whole."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hvdm.checkpoint import checkpoint, faults
from hvdm.config import CheckpointConfig, RunConfig, Samples
from hvdm.run import run
from tests.support import killed
from tests.support.toys import run_config

pytestmark = pytest.mark.processes

EVERY_STEP = CheckpointConfig(every=Samples(5), keep=2)
RANKS = [(point, rank) for point, both in faults.POINTS.items() for rank in range(1 + both)]


@pytest.fixture
def config(shapes: Path, tmp_path: Path) -> RunConfig:
    return run_config(tmp_path / "run", shapes, steps=5, checkpoint=EVERY_STEP)


@pytest.fixture(scope="module")
def straight(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """On two ranks, so that the hashes are those of the killed runs after their restart."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    config = run_config(folder, shapes, steps=5, checkpoint=replace(EVERY_STEP, keep=5))
    assert killed.exit_codes(killed.start(config, world=2)) == [0, 0]
    yield folder


def hashes(folder: Path) -> dict[int, object]:
    return {c.step: checkpoint.hashes(c) for c in checkpoint.listed(folder)}


def test_a_run_comes_by_every_point(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list is that of the code: no point is unreachable, none is missing from it."""
    reached = set()
    monkeypatch.setattr(faults, "reach", lambda point, step: reached.add(point))
    run.train(config, sinks=())
    again(config)
    assert reached == set(faults.POINTS)


def again(config: RunConfig) -> None:
    """Saves a step that is there already, and is damaged."""
    newest = checkpoint.listed(Path(config.run))[-1]
    next(newest.path.glob("*.safetensors")).unlink()
    run.train(config, sinks=())


@pytest.mark.parametrize("point, rank", [c for c in RANKS if c[0] != "replaced"])
def test_killed_at(point: str, rank: int, config: RunConfig, straight: Path) -> None:
    step = 1 if point == "trash-renamed" else 3
    codes = killed.exit_codes(killed.start(config, world=2, HVDM_FAULT=f"{point}:{rank}:{step}"))
    assert codes[rank] == -signal.SIGKILL
    folder = Path(config.run)
    newest = checkpoint.newest_valid(folder, print)
    assert newest is not None and newest.step in (2, 3)
    assert checkpoint.hashes(newest) == hashes(straight)[newest.step]
    assert killed.exit_codes(killed.start(config, world=2)) == [0, 0]
    assert hashes(folder)[5] == hashes(straight)[5]
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    assert names == {"latest", "step-00000004", "step-00000005"}


@pytest.mark.parametrize("point", ["renamed", "replaced", "manifest-written"])
def test_killed_while_a_step_is_written_again(
    point: str, config: RunConfig, straight: Path
) -> None:
    """A damaged step is written anew: at no moment is there neither the old nor the new one."""
    assert killed.exit_codes(killed.start(config, world=2)) == [0, 0]
    folder = Path(config.run)
    newest = checkpoint.listed(folder)[-1]
    next(newest.path.glob("*.safetensors")).unlink()
    codes = killed.exit_codes(killed.start(config, world=2, HVDM_FAULT=f"{point}:0:5"))
    assert codes[0] == -signal.SIGKILL
    found = checkpoint.newest_valid(folder, print)
    assert found is not None
    assert found.step == (4 if point == "manifest-written" else 5)
    assert killed.exit_codes(killed.start(config, world=2)) == [0, 0]
    assert hashes(folder)[5] == hashes(straight)[5]
