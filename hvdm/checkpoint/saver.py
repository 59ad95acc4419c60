"""Saving while training goes on: it waits for the copy to host memory, and for nothing else.

A thread of each rank copies the state while the next step computes, which waits for it before it
moves the weights; then it writes the files. Every collective call is made by the training thread,
at step boundaries, so that all ranks see the same and decide alike. First all write; when all are
done, the first rank's thread commits; when that is done, the save is over. An error anywhere at
any time abandons the save on all ranks.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from hvdm import dist
from hvdm.checkpoint import faults, places, retention, storage, writing
from hvdm.config import CheckpointConfig
from hvdm.errors import RunError
from hvdm.events import Reporter
from hvdm.train.ema import Ema
from hvdm.train.engine import Engine

_PATIENCE_S = 1.0
"""Between two exchanges of a rank that waits: other ranks' writers may take longer than any
timeout of the process group."""

_WAY_OUT = "make room or mend the folder, then run the same command again"

RUNNING, DONE, FAILED = "running", "done", "failed"
_URGENCY = {DONE: 0, RUNNING: 1, FAILED: 2}
"""While some rank still writes and none has failed, there is nothing to say."""
Status = tuple[str, Any]


class ThreadJob:
    """A function on a thread of its own, and what has become of it."""

    def __init__(self, action: Callable[[threading.Event], Any]) -> None:
        self._action = action
        self._stop = threading.Event()
        self._ended: Status = (FAILED, "the writer ended without a word")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._ended = (DONE, self._action(self._stop))
        except BaseException as error:  # whatever ends this thread, the others have to know
            self._ended = (FAILED, reason_of(error))

    def status(self) -> Status:
        return (RUNNING, None) if self._thread.is_alive() else self._ended

    def wait(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def join(self) -> None:
        self._thread.join()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


def reason_of(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return text or str(error) or type(error).__name__


@dataclass
class PendingSave:
    """A save under way."""

    step: int
    part: str
    head: Mapping[str, Any]
    began: float
    remark: Mapping[str, Any]
    stalled: float = 0.0
    copied: threading.Event = field(default_factory=threading.Event)
    job: ThreadJob | None = None
    files: dict[str, Any] | None = None
    """Of all ranks, once all have written."""

    def status(self) -> Status:
        return self.job.status() if self.job else (DONE, None)


@dataclass
class Saver:
    """All methods but `close` and `before_update` are for all ranks together, between two steps."""

    run: Path
    engines: Mapping[str, Engine]
    averages: Mapping[str, Ema]
    config: CheckpointConfig
    report: Reporter
    failed_in_a_row: int = 0
    _copy: writing.HostCopy = field(default_factory=writing.HostCopy)
    _flight: PendingSave | None = None
    _exchange: dist.Largest | None = None
    _known: set[str] = field(default_factory=set)
    _last_problem: str | None = None
    _tidying: ThreadJob | None = None

    def __post_init__(self) -> None:
        self._place = places.storage_of(self.run)
        self._rule = retention.Rule(
            self.config.keep, self.config.keep_every, tuple(self.config.pinned)
        )

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Of this rank alone: nothing writes any more. What is unfinished stays uncommitted."""
        if self._flight and self._flight.job:
            self._flight.job.end()
        self._flight = self._exchange = None
        self._tidied()

    def verified(self, sha256: str | None) -> None:
        """A manifest whose files this run has read and found whole."""
        if sha256:
            self._known.add(sha256)

    def begin(
        self, step: int, extra: Mapping[str, Any], remark: Mapping[str, Any] | None = None
    ) -> None:
        """Leaves the state of this step to a thread, which copies and writes it.

        The remark goes into the event that tells of it.
        """
        self.finish()
        self._tidied()
        began = time.monotonic()
        head = writing.head(step, self.engines, self.averages, extra)
        part, problems = self._begun(step)
        flight = self._flight = PendingSave(step, part, head, began, remark or {})
        if not problems:
            faults.reach("begun", step)
            _, problems = _together(lambda: self._copy.begin(self.engines, self.averages))
        if problems:
            self._abandon(problems)
            return
        flight.job = ThreadJob(lambda stop: self._write(flight, stop))
        flight.stalled = time.monotonic() - began
        if not self.config.asynchronous:
            self.finish()

    def _write(self, flight: PendingSave, stop: threading.Event) -> dict[str, Any]:
        """On every rank's thread."""
        try:
            self._copy.finish()
        finally:
            flight.copied.set()
        faults.reach("copied", flight.step)
        return writing.write_files(self._place, flight.part, self._copy.images, flight.step, stop)

    def before_update(self) -> None:
        """Of this rank alone, before weights or averages move: what is saved has been copied."""
        if self._flight and self._flight.job and not self._flight.copied.is_set():
            began = time.monotonic()
            self._flight.copied.wait()
            self._flight.stalled += time.monotonic() - began

    def _begun(self, step: int) -> tuple[str, list[str]]:
        name = writing.name_of(step)
        part, problems = _together(lambda: self._place.begin(name) if dist.is_main() else "")
        return part, problems

    def poll(self) -> None:
        """At every step boundary: what has become of the save under way.

        The ranks tell each other beside the step that follows, and read it at the next boundary.
        """
        if self._flight is None:
            return
        began = time.monotonic()
        most_urgent = self._exchange.result() if self._exchange else _URGENCY[RUNNING]
        self._exchange = None
        if most_urgent != _URGENCY[RUNNING]:
            self._advance(self._flight, most_urgent == _URGENCY[FAILED])
        if self._flight:
            self._exchange = dist.Largest(_URGENCY[self._flight.status()[0]])
            self._flight.stalled += time.monotonic() - began

    def finish(self) -> None:
        """Waits for the save under way to be over."""
        while (flight := self._flight) is not None:
            began = time.monotonic()
            if flight.job:
                flight.job.wait(_PATIENCE_S)
            flight.stalled += time.monotonic() - began
            self.poll()

    def finish_last(self) -> None:
        """At the end of the run there is no next save: one that failed is an error."""
        self.finish()
        if self._last_problem:
            raise RunError(f"{self._last_problem}; {_WAY_OUT}")

    def _advance(self, flight: PendingSave, failed: bool) -> None:
        """Some rank failed, or all are done: with writing, or with waiting for the commit."""
        if failed:
            statuses = enumerate(dist.all_gather(flight.status()))
            self._abandon([f"rank {r}: {why}" for r, (kind, why) in statuses if kind == FAILED])
            return
        faults.reach("noticed", flight.step)
        if flight.files is None:
            written = dist.all_gather(flight.status()[1])
            flight.files = {file: row for rows in written for file, row in rows.items()}
            flight.job = ThreadJob(lambda stop: self._commit(flight)) if dist.is_main() else None
        else:
            self._committed(flight)

    def _commit(self, flight: PendingSave) -> None:
        """On the first rank's thread."""
        files = dict(sorted((flight.files or {}).items()))
        manifest = writing.whole({**flight.head, "files": files})
        self._place.commit(flight.part, writing.name_of(flight.step), manifest)
        faults.reach("committed", flight.step)

    def _committed(self, flight: PendingSave) -> None:
        self._flight, self.failed_in_a_row, self._last_problem = None, 0, None
        self.report.event(
            "saved",
            step=flight.step,
            seconds=round(time.monotonic() - flight.began, 3),
            stalled_s=round(flight.stalled, 3),
            **flight.remark,
        )
        if dist.is_main():
            self._tidying = ThreadJob(lambda stop: self._tidy(flight.step))

    def _tidy(self, step: int) -> list[int]:
        """On the first rank's thread, and waited for before the next save."""
        name = writing.name_of(step)
        self._place.tell_latest(name)
        faults.reach("latest-written", step)
        self.verified(storage.parsed(self._place.manifest(name)).get("sha256"))
        return retention.prune(self.run, self._place, self._rule, self._known)

    def _tidied(self) -> None:
        """What failed in it harms no checkpoint: it is told, and is not a failed save."""
        if self._tidying is None:
            return
        self._tidying.join()
        kind, result = self._tidying.status()
        self._tidying = None
        if kind == FAILED:
            self.report.event("not_pruned", reason=result)
        elif result:
            self.report.event("pruned", removed=result)

    def _abandon(self, problems: list[str]) -> None:
        """All ranks come here together; none writes any more when the files are removed."""
        flight = self._flight
        assert flight is not None
        self.close()
        _together(lambda: self._place.abandon(flight.part) if dist.is_main() else None, after=True)
        self.failed_in_a_row += 1
        where = f"step {flight.step} was not written to {self._place.where}"
        self._last_problem = f"checkpoint of {where}: {problems[0]}"
        self.report.event(
            "save_failed", step=flight.step, in_a_row=self.failed_in_a_row, reason=problems[0]
        )
        if self.failed_in_a_row > self.config.failures:
            raise RunError(
                f"{self._last_problem}; {self.failed_in_a_row} in a row, and checkpoint.failures="
                f"{self.config.failures} are borne: {_WAY_OUT}"
            )


def _together(action: Callable[[], Any], after: bool = False) -> tuple[Any, list[str]]:
    """Runs it on every rank; rank 0's result and the failures of all, the same on all ranks."""
    result, failure = None, ""
    if after:
        dist.all_gather(None)
    try:
        result = action()
    except Exception as error:
        failure = f"rank {dist.rank()}: {reason_of(error)}"
    answers = dist.all_gather((result, failure))
    return answers[0][0], [text for _, text in answers if text]


def save(
    run: Path,
    step: int,
    engines: Mapping[str, Engine],
    averages: Mapping[str, Ema],
    extra: Mapping[str, Any],
) -> Path:
    """Writes and commits on all ranks together, and waits for it."""
    keep_all = CheckpointConfig(keep=2**31)
    with Saver(run, engines, averages, keep_all, Reporter([])) as saver:
        saver.begin(step, extra)
        saver.finish_last()
    return places.storage_of(run).path(writing.name_of(step))
