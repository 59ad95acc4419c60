"""Where the time of training goes, measured while it runs; `ledger` adds it up over a whole run."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from hvdm import dist

T = TypeVar("T")
Clock = Callable[[], float]
WAITS = ("data", "checkpoint")
STEP_FILE = ".step"


class Account:
    """Seconds by column since training began here: this attempt, until a worker is lost or it ends.

    A rank that waits for data or for a save holds up the others inside their next collective call,
    which they would take for computing. So the slowest rank's waits count, for all.
    """

    def __init__(self, clock: Clock = time.monotonic, now: Clock = time.time) -> None:
        self._clock, self._began = clock, now()
        self._first = self._settled = clock()
        self._inner = 0.0
        self._own = dict.fromkeys(("compute", *WAITS), 0.0)
        self._spent = dict.fromkeys(("compute", *WAITS, "idle"), 0.0)

    @contextmanager
    def on(self, column: str) -> Iterator[None]:
        """What is spent on another column in between belongs to that one alone."""
        began, of_outer, self._inner = self._clock(), self._inner, 0.0
        try:
            yield
        finally:
            took = self._clock() - began
            self._own[column] += took - self._inner
            self._inner = of_outer + took

    def during(self, column: str, items: Iterable[T]) -> Iterator[T]:
        """The items; the time until each of them comes belongs to the column."""
        iterator = iter(items)
        while True:
            with self.on(column):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def own(self) -> dict[str, float]:
        """What this rank has spent since it last settled."""
        return dict(self._own)

    def settle(self, every: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """From what all ranks have spent of their own: the columns up to now, `from` and `to`."""
        slowest = {column: max(own[column] for own in every) for column in WAITS}
        for_others = sum(slowest[column] - self._own[column] for column in WAITS)
        parts = {"compute": max(0.0, self._own["compute"] - for_others), **slowest}
        now = self._clock()
        parts["idle"] = max(0.0, now - self._settled - sum(parts.values()))
        for column, seconds in parts.items():
            self._spent[column] += seconds
        self._settled, self._own = now, dict.fromkeys(self._own, 0.0)
        wall = {"from": self._began, "to": self._began + now - self._first}
        return {name: round(value, 3) for name, value in {**wall, **self._spent}.items()}


class StepMark:
    """The last finished step, in the run folder: what is lost when a worker dies is counted by it.

    Rewritten in place after each step, without a sync: a crash of the machine may lose it.
    """

    def __init__(self, run: Path) -> None:
        self._descriptor = os.open(run / STEP_FILE, os.O_WRONLY | os.O_CREAT, 0o644)

    def write(self, step: int) -> None:
        os.pwrite(self._descriptor, f"{step:<20}".encode(), 0)

    def close(self) -> None:
        os.close(self._descriptor)


@contextmanager
def marked(run: Path) -> Iterator[Callable[[int], None]]:
    """What the first rank calls after each step; the others call nothing."""
    if not dist.is_main():
        yield lambda step: None
        return
    mark = StepMark(run)
    try:
        yield mark.write
    finally:
        mark.close()


def steps_lost(run: Path, resumed: int) -> int:
    """Finished steps that no checkpoint holds, and that are done again."""
    with suppress(OSError, ValueError):
        return max(0, int((run / STEP_FILE).read_text()) - resumed)
    return 0


def lost_at(newest_first: Iterable[Mapping[str, Any]]) -> float | None:
    """When the worker was lost whose loss this start makes good; None where it is none."""
    found: float | None = None
    for event in newest_first:
        if event.get("event") == "lost":
            found = event["time"]
        elif event.get("event") in ("recovered", "launched", "finished", "stopped"):
            break
    return found
