"""The worker function: one, the same in this process, under Ray, and under torchrun."""

import itertools
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hvdm import config as configs
from hvdm.data.store import Outage
from hvdm.disk import atomic_write
from hvdm.errors import RunError, UserError
from hvdm.events import newest_first
from hvdm.run import claims, failing, stopping
from launcher.workers import spares, stop_file

FATAL = ".fatal.json"
STARTING = "starting workers: their processes, torch, their process group"
RESIZE_S = 60.0


def train(mapping: Mapping[str, Any]) -> None:
    """Under Ray. An error that a retry cannot mend is left in the run folder and ends the job.

    Ray starts a failed group again whatever the failure was; the second group finds the note
    and goes home.
    """
    from hvdm.run import run

    config = configs.load(mapping)
    folder = Path(config.run)
    if fatal_path(config.run).exists() or stop_file.asked(folder) == stopping.ASKED:
        return
    context = _context()
    os.environ["LOCAL_RANK"] = str(context.get_local_rank())
    if context.get_world_rank() == 0:
        _tell_arrival(folder)
    before = failing.noted(folder)
    sources = [_asked(folder, context.get_world_rank()), _drained(context)]
    if config.cluster.spares:
        sources.append(spares.Spare())
    try:
        outcome = run.train(config, sinks=(), sources=sources)
    except (claims.Taken, Outage):
        raise  # by the group before, which was cut off and dies; or storage: Ray tries again
    except failing.StepFailed as error:
        if before == (error.step, error.kind):
            _leave_note(config.run, error.final())
        failing.note(folder, error)
        raise
    except (UserError, RunError) as error:
        _leave_note(config.run, error)
        raise
    if outcome.reason == stopping.RESIZED:
        time.sleep(RESIZE_S)  # until this group is taken down
    if outcome.reason not in ("", stopping.ASKED):
        raise Leaving(f"{outcome.reason}: saved step {outcome.step}, the group starts again")


def _tell_arrival(folder: Path) -> None:
    """Of a command's first group: how long its start took."""
    from hvdm.run import run

    last = itertools.islice(newest_first(folder / "events.jsonl"), 2)
    for row in last:  # what Ray tells of the group is between
        if row.get("text") == STARTING:
            run.note(folder, (), f"workers are there: {time.time() - row['time']:.1f} s")


class Leaving(Exception):
    """This group cannot stay where it is. To Ray it is a failure, and it starts another one."""


def _context() -> Any:
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context()


def _asked(run: Path, rank: int) -> stopping.StopSource:
    """What the command or the controller asks for; one rank looks, and all hear of it."""
    return (lambda: "") if rank else (lambda: stop_file.asked(run))


def _drained(context: Any) -> stopping.StopSource:
    """A node of ours is taken away. `ray.train.get_preemption_info` would be a barrier per step."""
    return lambda: stopping.DRAINED if context.preemption_context.preemption_info else ""


def fatal_path(run: str) -> Path:
    return Path(run) / FATAL


def _leave_note(run: str, error: UserError | RunError) -> None:
    note = {"kind": type(error).__name__, "message": str(error)}
    atomic_write(fatal_path(run), json.dumps(note))


def taken_note(run: str) -> UserError | RunError | None:
    """The error that a worker left, which is thereby gone from the folder."""
    path = fatal_path(run)
    if not path.exists():
        return None
    note = json.loads(path.read_text())
    path.unlink()
    kind = UserError if note["kind"] == "UserError" else RunError
    return kind(note["message"])
