"""Beside training: losses of held-out clips, and samples, from checkpoints as they are committed.

A process of its own, `python -m launcher.beside RUN STEP PID`, that reads what is committed after
STEP, as long as PID trains, and writes beside it: no step waits for it, no number depends on it.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from eval.watch import committed, is_finished
from hvdm import building, opening
from hvdm.checkpoint import leases, places
from hvdm.config import RunConfig
from hvdm.errors import RunError, UserError
from hvdm.events import JsonLines, Sink, TensorBoard
from hvdm.run import held_out
from hvdm.run import run as runs
from launcher.run_options import SampleOptions
from launcher.verbs import samples

LINES = "held_out.jsonl"


def main(run: Path, after: int, trains: int) -> None:
    """Until training is finished and all of its checkpoints were seen, or nobody trains it."""
    torch.set_num_threads(1)
    seen = after
    while os.getppid() == trains:
        finished = is_finished(run)
        pending = [step for step in committed(run) if step > seen]
        for step in pending:
            _look(run, step, seen)
            seen = step
        if finished and not pending:
            return
        time.sleep(places.pause_s(places.pointed(run)))


def _look(run: Path, step: int, before: int) -> None:
    config = opening.read_config(run)
    with leases.held(run, step), _told(run, step):
        if _due(config.held_out.every, config, step, before):
            _measure(run, config, step)
        if _due(config.preview.every, config, step, before):
            preview = config.preview
            samples.sample(
                SampleOptions(run=f"{run}@{step}", count=preview.count, seed=preview.seed)
            )


def _due(every: int, config: RunConfig, step: int, before: int) -> bool:
    """A multiple lies between the checkpoint before and this one."""
    return bool(every) and step * config.batch // every > before * config.batch // every


@contextmanager
def _told(run: Path, step: int) -> Iterator[None]:
    """What went wrong is a line of the run's events; training goes on."""
    try:
        yield
    except (UserError, RunError) as error:
        runs.note(run, [], f"step {step}, beside training: {error}")


def _measure(run: Path, config: RunConfig, step: int) -> None:
    values: dict[str, float] = {}
    with building.build_loader(config, config.data.held_out) as loader:
        for name, averaged in (("held_out", True), ("held_out_raw", False)):
            opened = opening.open_run(f"{run}@{step}", averaged)
            if averaged and not opened.recipe.averaged:
                continue
            found = held_out.losses(config, opened.recipe, loader, step)
            values |= {f"{name}/{key}": value for key, value in found.items()}
    _write(run, config, step, values)


def _write(run: Path, config: RunConfig, step: int, values: dict[str, float]) -> None:
    row = {"step": step, "samples": step * config.batch, **values, "time": time.time()}
    lines: list[Sink] = [JsonLines(run, metrics=LINES)]
    if config.log.tensorboard:
        lines.append(TensorBoard(run))
    for sink in lines:
        sink.metrics(row)
        sink.close()
    shown = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
    runs.note(run, [], f"step {step}, held out: {shown}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
