"""An error in a step: told with the step, and final when the same one comes there again.

A worker or a host that is lost may be well elsewhere, and has the budget of restarts. What the step
itself raises would be raised again, so one more try is all that it gets.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from hvdm import dist
from hvdm.errors import RunError, UserError

NOTE = ".failed"
_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")
_LESS = (
    "lower micro_batch, or set model.activation_checkpointing=true where the family has it "
    "(`hvdm plan` says what fits)"
)


class StepFailed(Exception):
    """To Ray a failure like that of a lost worker; `kind` is what makes two of them the same."""

    def __init__(self, step: int, kind: str, reason: str) -> None:
        super().__init__(step, kind, reason)
        self.step, self.kind, self.reason = step, kind, reason

    def __str__(self) -> str:
        hint = f"; {_LESS}" if self.kind == "memory" else ""
        return f"step {self.step}: {self.reason}{hint}"

    def final(self) -> RunError:
        """After it came twice."""
        hint = _LESS if self.kind == "memory" else "RUN/logs/losses has all of it"
        return RunError(
            f"step {self.step}: {self.reason}; the same error came at this step twice, so that "
            f"trying again is in vain: {hint}"
        )


@contextmanager
def told(step: int) -> Iterator[None]:
    """What is raised inside was raised in this step, unless it is about others of the group."""
    try:
        yield
    except (UserError, RunError):
        raise
    except Exception as error:  # a family's own code raises anything
        if dist.is_of_peers(error):
            raise
        raise StepFailed(step, *_judged(error)) from error


@contextmanager
def alone() -> Iterator[None]:
    """Where nobody starts the run again: what a user can mend ends it in one line."""
    try:
        yield
    except StepFailed as error:
        if error.kind == "memory":
            raise RunError(str(error)) from error
        raise


def _judged(error: Exception) -> tuple[str, str]:
    text = (str(error).splitlines() or [""])[0]
    reason = f"{type(error).__name__}: {text}"
    if is_of_memory(error):
        return "memory", f"out of memory on rank {dist.rank()} ({text or reason})"
    return re.sub(r"\d+", "#", reason), reason  # addresses and sizes differ from time to time


def is_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _MEMORY)


def noted(run: Path) -> tuple[int, str] | None:
    """Step and kind of the error that ended the group before; asked before the first step."""
    with suppress(OSError, ValueError):
        step, kind = json.loads((run / NOTE).read_text())
        return int(step), str(kind)
    return None


def note(run: Path, error: StepFailed) -> None:
    part = run / f"{NOTE}.{dist.rank()}.{os.getpid()}"
    part.write_text(json.dumps([error.step, error.kind]))
    part.rename(run / NOTE)


def forget(run: Path) -> None:
    """A new command is a new try: its keys may have mended it."""
    (run / NOTE).unlink(missing_ok=True)
