"""Killed at random moments, again and again: the run ends where the undisturbed one does."""

import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hvdm.checkpoint import checkpoint
from hvdm.config import CheckpointConfig, RunConfig, Samples
from hvdm.events import read_lines
from tests.support import killed
from tests.support.toys import ADAMW, run_config

pytestmark = pytest.mark.processes

KILLS = int(os.environ.get("HVDM_KILLS", "10"))
EVERY = 3
MOST_S = 0.05
"""After a step that was waited for: a random moment of a step, of a write, of a commit."""


def last_row(folder: Path, name: str) -> int:
    rows = read_lines(folder / name)
    return max((row["step"] for row in rows if "loss" in str(row)), default=0)


def rows(folder: Path) -> int:
    return len(read_lines(folder / "metrics.jsonl"))


def wait_for_steps(folder: Path, more: int) -> None:
    before, until = rows(folder), time.monotonic() + 120
    while rows(folder) < before + more:
        assert time.monotonic() < until
        time.sleep(0.005)


def resumed(folder: Path) -> int:
    """The step that the newest start began at."""
    events = read_lines(folder / "events.jsonl")
    return [e["step"] for e in events if e["event"] in ("started", "resumed")][-1]


def starts(folder: Path) -> int:
    events = read_lines(folder / "events.jsonl")
    return sum(e["event"] in ("started", "resumed") for e in events)


def test_random_kills(shapes: Path, tmp_path: Path) -> None:
    """Lost is at most one interval, and the steps taken while the newest save was written."""
    saving = CheckpointConfig(every=Samples(5 * EVERY), keep=2)
    config: RunConfig = run_config(
        tmp_path / "killed", shapes, steps=10**6, optimizer=ADAMW, checkpoint=saving
    )
    chance, folder, kills = random.Random(7), Path(config.run), 0
    while kills < KILLS:
        before = starts(folder)
        (process,) = killed.start(config)
        if chance.random() < 0.8:  # the others are killed while they start
            wait_for_steps(folder, chance.randint(1, 3 * EVERY))
        time.sleep(chance.uniform(0.0, MOST_S))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        done = last_row(folder, "metrics.jsonl")
        newest = checkpoint.newest_valid(folder, print)
        step = newest.step if newest else 0
        begun = max(0, done - 1) // EVERY * EVERY  # that of the last step may still wait its turn
        assert step >= begun - EVERY, (kills, done, step)
        if starts(folder) > before and before:
            assert resumed(folder) <= step
    reached = checkpoint.choose(folder, None).step
    assert reached > EVERY * 2
    end = reached + 4
    assert killed.exit_codes(killed.start(replace(config, steps=end))) == [0]
    straight = replace(config, run=str(tmp_path / "straight"), steps=end)
    assert killed.exit_codes(killed.start(straight)) == [0]
    a, b = (checkpoint.hashes(checkpoint.choose(Path(c.run), end)) for c in (config, straight))
    assert a == b
