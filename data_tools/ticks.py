"""How far a long job is: workers write lines, the one who waits shows them.

A line of a file reaches whoever waits from threads, processes and other machines alike.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

PERIOD = 0.5
TICKS = "progress.lines"
"""Their file, in the journal of a job."""


def tick(path: str | Path | None, clips: int = 0, size: int = 0, failures: int = 0) -> None:
    """Another item is done. Losing a line spoils a display, and nothing else."""
    if path is None:
        return
    line = json.dumps([clips, size, failures]) + "\n"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        return
    os.write(handle, line.encode())
    os.close(handle)


class JobProgress:
    """Sums of the lines so far."""

    def __init__(self, path: Path, what: str, total: int, stream: TextIO | None) -> None:
        self.path, self.what, self.total, self.stream = path, what, total, stream
        self.began, self.at = time.monotonic(), 0
        self.items = self.clips = self.size = self.failures = 0

    def read(self) -> None:
        try:
            with open(self.path, "rb") as file:
                file.seek(self.at)
                text = file.read()
        except FileNotFoundError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        self.at += len(whole)
        for line in whole.splitlines():
            clips, size, failures = json.loads(line)
            self.items += 1
            self.clips += clips
            self.size += size
            self.failures += failures

    def __str__(self) -> str:
        seconds = max(time.monotonic() - self.began, 1e-6)
        left = seconds / self.items * (self.total - self.items) if self.items else 0.0
        return (
            f"{self.what} {self.items}/{self.total}: {self.clips / seconds:.1f} clips/s, "
            f"{self.size / 1e6 / seconds:.1f} MB/s, {self.failures} failed, {left:.0f} s left"
        )

    def show(self) -> None:
        self.read()
        if self.stream is not None:
            end = "\r" if self.stream.isatty() else "\n"
            self.stream.write(f"\x1b[2K{self}{end}" if self.stream.isatty() else f"{self}\n")
            self.stream.flush()


@contextmanager
def shown(path: Path, what: str, total: int, quiet: bool = True) -> Iterator[JobProgress]:
    """A line on standard error while the job runs: on a terminal it is one that changes."""
    path.unlink(missing_ok=True)
    bar = JobProgress(path, what, total, None if quiet else sys.stderr)
    done = threading.Event()
    patient = bar.stream is not None and not bar.stream.isatty()

    def watch() -> None:
        while not done.wait(10 if patient else PERIOD):
            bar.show()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield bar
    finally:
        done.set()
        thread.join()
        bar.show()
        if bar.stream is not None and bar.stream.isatty():
            bar.stream.write("\n")
        path.unlink(missing_ok=True)
