"""A run that is killed goes on with the samples that come next, on another number of workers."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from hvdm.config import RunConfig
from hvdm.data.batches import read_keys
from hvdm.run import run
from launcher import compose
from tests.support import killed
from tests.support.ranks import Ranks


def overrides(folder: Path, shapes: Path) -> list[str]:
    return [
        f"run={folder}", f"data.path={shapes}", "cluster=inline", "steps=12", "data.log_keys=true",
        "data.frames=8", "data.height=16", "data.width=16", "batch=6", "micro_batch=3",
        "model.width=16", "model.depth=1", "log.tensorboard=false", "checkpoint.every=18",
    ]  # fmt: skip


def train(config: RunConfig) -> None:
    run.train(config, sinks=())


def killed_at(step: int, config: RunConfig) -> None:
    """Kills the process when the rows of this step have been handed out."""
    (process,) = killed.start(config)
    log = Path(config.run) / "logs/keys/rank-0.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < step:
        assert process.is_alive(), "the run ended before it could be killed"
        time.sleep(0.001)
    process.kill()
    process.join()


@pytest.mark.processes
def test_a_killed_run_goes_on_with_the_samples_that_come_next(
    two_ranks: Ranks, shapes: Path, tmp_path: Path
) -> None:
    straight = compose.run_config("tiny/hvdm_autoencoder", overrides(tmp_path / "a", shapes))
    two_ranks.run(train, straight)
    broken = replace(straight, run=str(tmp_path / "b"))
    killed_at(7, broken)
    two_ranks.run(train, broken)
    keys = read_keys(tmp_path / "b/logs/keys")
    assert keys == read_keys(tmp_path / "a/logs/keys") and sorted(keys) == list(range(72))
    assert len({keys[draw] for draw in range(40)}) == 40
