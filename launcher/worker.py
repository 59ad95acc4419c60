"""The worker function: one, the same in this process, under Ray, and under torchrun."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hvdm import config as configs
from hvdm.errors import RunError, UserError

FATAL = ".fatal.json"


def train(mapping: Mapping[str, Any]) -> None:
    """Under Ray. An error that a retry cannot mend is left in the run folder and ends the job.

    Ray starts a failed group again whatever the failure was; the second group finds the note
    and goes home.
    """
    from hvdm import run

    config = configs.load(mapping)
    if fatal_path(config.run).exists():
        return
    _use_local_rank()
    try:
        run.train(config, sinks=())
    except (UserError, RunError) as error:
        _leave_note(config.run, error)
        raise


def _use_local_rank() -> None:
    import ray.train

    context = ray.train.get_context()
    os.environ["LOCAL_RANK"] = str(context.get_local_rank())


def fatal_path(run: str) -> Path:
    return Path(run) / FATAL


def _leave_note(run: str, error: UserError | RunError) -> None:
    note = {"kind": type(error).__name__, "message": str(error)}
    path = fatal_path(run)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(json.dumps(note))
    part.rename(path)


def taken_note(run: str) -> UserError | RunError | None:
    """The error that a worker left, which is thereby gone from the folder."""
    path = fatal_path(run)
    if not path.exists():
        return None
    note = json.loads(path.read_text())
    path.unlink()
    kind = UserError if note["kind"] == "UserError" else RunError
    return kind(note["message"])
