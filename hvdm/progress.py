"""How far a job is: a line that moves where somebody watches, else lines now and then."""

import json
import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from hvdm.events import Console, Tail, duration

EVERY_S, MOVING_S = 10.0, 0.2
TICKS = "progress.lines"
"""Of a job's workers: a line reaches who waits from threads, processes and other machines alike."""
_BAR = 20
_HIDDEN = ("grad_norm", "_s", "lr")


class Progress:
    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._moving = out.isatty()
        self._title = ""
        self._shown = ""
        self._last = 0.0

    def begin(self, title: str, command: str) -> None:
        self._title, self._shown, self._last = title, "", 0.0
        self._line(f"[{title}]\n    $ {command}")

    def say(self, text: str) -> None:
        """Shown if it is new and the last one has stood for a while."""
        wait = MOVING_S if self._moving else EVERY_S
        if not text or text == self._shown or time.monotonic() - self._last < wait:
            return
        self._shown, self._last = text, time.monotonic()
        if self._moving:
            width = shutil.get_terminal_size().columns - 1
            self._out.write(f"\r\033[K    {text}"[: width + 4])
            self._out.flush()
        else:
            self._line(f"    {text}")

    def step(self, row: Mapping[str, Any]) -> None:
        """A row of a run's metrics: how far, how good, how long."""
        share = row["step"] / max(1, row["steps"])
        bar = "#" * round(_BAR * share) + "." * (_BAR - round(_BAR * share))
        numbers = "  ".join(
            f"{name.rpartition('/')[2]} {value:.4g}"
            for name, value in row.items()
            if "/" in name and isinstance(value, int | float) and not name.endswith(_HIDDEN)
        )
        left = f"{duration(row.get('seconds_left', 0))} left"
        self.say(f"{bar} {row['step']}/{row['steps']}  {left}  {numbers}")

    def last(self, text: str) -> None:
        self._line(f"    {text}")

    def done(self, title: str, text: str) -> None:
        self._line(f"[{title}] {text}")

    def _line(self, text: str) -> None:
        if self._moving:
            self._out.write("\r\033[K")
        self._out.write(f"{text}\n")
        self._out.flush()


class Pace:
    """How fast things get done, and how long the rest will take."""

    def __init__(self, total: float) -> None:
        self.total, self.done = total, 0.0
        self.began = self._told = time.monotonic()

    def per_second(self, count: float) -> float:
        return count / max(time.monotonic() - self.began, 1e-6)

    def left(self) -> str:
        rate = self.per_second(self.done)
        return f"{duration((self.total - self.done) / rate if rate else 0)} left"

    def due(self, every_s: float) -> bool:
        """Whether it was last said long ago."""
        now = time.monotonic()
        if now - self._told < every_s:
            return False
        self._told = now
        return True


def tick(path: str | Path | None, clips: int = 0, size: int = 0, failures: int = 0) -> None:
    """Another item is done. Losing a line spoils a display, and nothing else."""
    if path is None:
        return
    line = json.dumps({"items": 1, "clips": clips, "size": size, "failures": failures})
    with suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(handle, f"{line}\n".encode())
        os.close(handle)


@contextmanager
def ticking(path: Path, what: str, total: int, quiet: bool = True) -> Iterator[None]:
    """Shows the sums of a file's ticks on standard error while the job runs."""
    path.unlink(missing_ok=True)
    ticks, sums, pace, progress = Tail(path), Counter[str](), Pace(total), Progress(sys.stderr)

    def line() -> str:
        for row in ticks.rows():
            sums.update(row)
        pace.done = sums["items"]
        clips, size = pace.per_second(sums["clips"]), pace.per_second(sums["size"] / 1e6)
        return (
            f"{what} {sums['items']}/{total}: {clips:.1f} clips/s, {size:.1f} MB/s, "
            f"{sums['failures']} failed, {pace.left()}"
        )

    try:
        if quiet:
            yield
        else:
            with repeating(lambda: progress.say(line()), 0.5):
                yield
            progress.last(line())
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def repeating(call: Callable[[], Any], every_s: float) -> Iterator[None]:
    """Calls it again and again from a thread, until the block ends; a failure waits for the next"""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(every_s):
            with suppress(OSError):
                call()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def timed(what: str) -> Iterator[None]:
    """A line that says what is being done, and ends with its seconds."""
    print(f"{what} …", end="", flush=True)
    began, end = time.monotonic(), ""
    try:
        yield
        end = f" {time.monotonic() - began:.1f} s"
    finally:
        print(end, flush=True)


class Onlooker(Console):
    """The console as long as somebody reads it."""

    def __init__(self, afterwards: str) -> None:
        super().__init__(self._line)
        self.gone = False
        self._afterwards = afterwards

    def _line(self, text: str) -> None:
        if self.gone:
            return
        try:
            print(text, flush=True)
        except BrokenPipeError:
            self.gone = True
            close_output()
            with suppress(BrokenPipeError):
                print(f"hvdm: nobody reads this any more: {self._afterwards}", file=sys.stderr)


def close_output() -> None:
    """What is still to be printed goes nowhere: Python complains at its end of a broken pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
