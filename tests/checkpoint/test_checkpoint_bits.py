"""Broken off and resumed, the real models end on the same bits; what is dropped shows."""

import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hvdm.checkpoint import checkpoint
from hvdm.checkpoint.saver import Saver
from hvdm.checkpoint.writing import HostCopy
from hvdm.config import CheckpointConfig, RunConfig, Samples
from hvdm.data.loader import Loader
from hvdm.events import read_lines
from hvdm.recipe import Noise
from hvdm.run import resuming, run
from hvdm.train.loop import Tally
from tests.run.test_resume import train
from tests.support.ranks import Ranks
from tests.support.toys import ADAMW, run_config
from tests.train.test_engines import engine


def last(folder: Path) -> dict[str, dict[str, str]]:
    return checkpoint.hashes(checkpoint.choose(folder, None))


@pytest.mark.processes
@pytest.mark.parametrize("recipe, stage", [("hvdm.autoencoder", None), ("hvdm.diffusion", 3)])
@pytest.mark.parametrize("world", [1, 3])
def test_the_real_models_resume_to_the_bit(
    world: int,
    recipe: str,
    stage: int | None,
    shapes: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    ranks: Ranks = request.getfixturevalue({1: "one_rank", 3: "three_ranks"}[world])
    config = run_config(tmp_path / "straight", shapes, recipe, engine=engine(stage), steps=4)
    config = replace(config, optimizer=ADAMW)
    if recipe == "hvdm.diffusion":
        run.train(run_config(tmp_path / "stage", shapes, "hvdm.autoencoder", steps=1), sinks=())
        config = replace(config, first_stage=str(tmp_path / "stage"))
    ranks.run(train, config)
    broken = replace(config, run=str(tmp_path / "broken"))
    ranks.run(train, replace(broken, steps=2))
    ranks.run(train, broken)
    assert last(tmp_path / "straight") == last(tmp_path / "broken")


def _place_dropped(patch: pytest.MonkeyPatch) -> None:
    honest = Loader.steps

    def from_the_start(self: Loader, first: int, total: int, *rest: Any) -> Any:
        return honest(self, 0, total - first, *rest)

    patch.setattr(Loader, "steps", from_the_start)


def _noise_shifted(patch: pytest.MonkeyPatch) -> None:
    honest = Noise._rows

    def shifted(self: Noise, use: str, draw_row: Any) -> Any:
        return honest(replace(self, draws=tuple(d + 1 for d in self.draws)), use, draw_row)

    patch.setattr(Noise, "_rows", shifted)


def _moment_zeroed(patch: pytest.MonkeyPatch) -> None:
    honest = resuming.restore

    def forgetful(found: Any, net: str, moving: Any, ema: Any) -> None:
        honest(found, net, moving, ema)
        moving.held()[0].state["exp_avg_sq"].zero_()

    patch.setattr(resuming, "restore", forgetful)


def _average_dropped(patch: pytest.MonkeyPatch) -> None:
    honest = resuming.restore
    patch.setattr(resuming, "restore", lambda found, net, moving, ema: honest(
        found, net, moving, None))  # fmt: skip


def _nothing(patch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(12345)


@pytest.mark.parametrize(
    "spoil", [_nothing, _place_dropped, _noise_shifted, _moment_zeroed, _average_dropped]
)
def test_what_is_not_restored_is_found(
    spoil: Callable[[pytest.MonkeyPatch], None], shapes: Path, tmp_path: Path
) -> None:
    """The controls: each of them leaves the equality of bits, and only they do."""
    config: RunConfig = run_config(tmp_path / "straight", shapes, optimizer=ADAMW, steps=6)
    run.train(config, sinks=())
    broken = replace(config, run=str(tmp_path / "broken"))
    run.train(replace(broken, steps=3), sinks=())
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch)
        run.train(broken, sinks=())
    assert (last(tmp_path / "straight") == last(tmp_path / "broken")) is (spoil is _nothing)


# Copied beside the next step


def train_with_a_step_skipped(config: RunConfig) -> None:
    """In a rank process: the third update is not made, and training goes on."""
    honest, calls = Tally.over_ranks, itertools.count(1)

    def bad_once(self: Tally, batch: int) -> Any:
        means, bad = honest(self, batch)
        return means, bad or next(calls) == 3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tally, "over_ranks", bad_once)
        run.train(config, sinks=())


def train_with_late_copies(config: RunConfig, training_waits: bool) -> None:
    """In a rank process: a save's copy begins when the next update is due, or else after it."""
    due = threading.Event()
    copy, wait, finish = HostCopy.finish, Saver.before_update, Saver.finish

    def copy_when_due(self: HostCopy) -> None:
        assert due.wait(60)
        copy(self)

    def is_due(method: Callable[[Saver], None]) -> Callable[[Saver], None]:
        def ends_the_copy(self: Saver) -> None:
            if self._flight:
                due.set()
            method(self)
            due.clear()

        return ends_the_copy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HostCopy, "finish", copy_when_due)
        patch.setattr(Saver, "finish", is_due(finish))
        patch.setattr(Saver, "before_update", is_due(wait) if training_waits else lambda self: None)
        train_with_a_step_skipped(config)


@pytest.mark.processes
@pytest.mark.parametrize(
    "precision, stage", [("fp32", s) for s in (None, 0, 1, 2, 3)] + [("bf16", 1)]
)
def test_what_is_copied_beside_a_step_is_the_state_before_it(
    precision: str, stage: int | None, shapes: Path, tmp_path: Path, two_ranks: Ranks
) -> None:
    recipe = "tests.sixth.toy_flow" if stage == 3 else "tests.support.toys"
    config = run_config(
        tmp_path / "waited",
        shapes,
        recipe,
        engine=engine(stage, precision),
        optimizer=ADAMW,
        steps=4,
        checkpoint=CheckpointConfig(every=Samples(5), keep=9, asynchronous=False),
    )
    beside = replace(config, checkpoint=replace(config.checkpoint, asynchronous=True))
    late, too_late = (replace(beside, run=str(tmp_path / name)) for name in ("late", "too-late"))
    two_ranks.run(train_with_a_step_skipped, config)
    two_ranks.run(train_with_late_copies, late, True)
    two_ranks.run(train_with_late_copies, too_late, False)
    saved, saved_late, saved_too_late = (
        {c.step: checkpoint.hashes(c) for c in checkpoint.listed(Path(given.run))}
        for given in (config, late, too_late)
    )
    assert list(saved) == [1, 2, 3, 4]
    assert saved_late == saved
    # but for the one before the update that is not made
    assert sum(saved_too_late[step] != saved[step] for step in (1, 2, 3)) == 2
    assert all(len(skipped(Path(given.run))) == 1 for given in (config, late, too_late))


def skipped(folder: Path) -> list[Any]:
    return [e for e in read_lines(folder / "events.jsonl") if e["event"] == "skipped"]
