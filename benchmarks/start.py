"""Seconds from `hvdm train` to its first line and to its first step, as medians, and the processor
seconds of all of its processes up to that step: these say the same on a machine that is not idle.

`python -m benchmarks.start DATA [CHECKOUT …]` compares checkouts, in turns; this one by default.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from hvdm.progress import repeating

ROUNDS = 3
LOOK_S = 0.1


class Start(NamedTuple):
    first_line: float
    first_step: float
    processor: float


class Spent:
    """Processor seconds of a command and of what it starts, those that have ended included."""

    def __init__(self, pid: int) -> None:
        self._root, self._seconds = psutil.Process(pid), dict[psutil.Process, float]()

    def look(self) -> float:
        with suppress(psutil.Error):
            for process in (self._root, *self._root.children(recursive=True)):
                with suppress(psutil.Error):
                    times = process.cpu_times()
                    self._seconds[process] = times.user + times.system
        return sum(self._seconds.values())


def measured(checkout: Path, data: str) -> Start:
    """A default run of one step, up to the line of that step."""
    with tempfile.TemporaryDirectory() as folder:
        verb = ["train", "config=tiny/hvdm_autoencoder", f"data.path={data}", f"run={folder}/run"]
        command = [sys.executable, "-u", "-m", "launcher.cli", *verb, "steps=1", "log.every=1"]
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        began = time.monotonic()
        with subprocess.Popen(
            command, cwd=checkout, env=environment, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            spent = Spent(process.pid)
            with repeating(spent.look, LOOK_S):
                process.stdout.read(1)
                first = time.monotonic() - began
                if not any(line.startswith(b"step ") for line in process.stdout):
                    raise RuntimeError(f"{checkout}: the run ended before its first step")
                found = Start(first, time.monotonic() - began, spent.look())
            process.stdout.read()
    return found


def main(data: str, *checkouts: str) -> None:
    places = [Path(c).resolve() for c in checkouts] or [Path(__file__).resolve().parents[1]]
    found: dict[Path, list[Start]] = {place: [] for place in places}
    for _ in range(ROUNDS):
        for place in places:
            found[place].append(measured(place, str(Path(data).resolve())))
            print(place.name, *(f"{seconds:.1f}" for seconds in found[place][-1]), flush=True)
    for place, rows in found.items():
        middle = Start(*(statistics.median(column) for column in zip(*rows, strict=True)))
        print(
            f"{place.name}: first line {middle.first_line:.1f} s, first step "
            f"{middle.first_step:.1f} s, {middle.processor:.1f} processor seconds"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
