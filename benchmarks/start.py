"""Seconds from `hvdm train` to its first line and to its first step, as medians.

`python -m benchmarks.start DATA [CHECKOUT …]` compares checkouts, in turns; this one by default.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 5


def measured(checkout: Path, data: str) -> tuple[float, float]:
    """A default run of one step, up to the line of that step."""
    with tempfile.TemporaryDirectory() as folder:
        verb = ["train", "config=tiny/hvdm_autoencoder", f"data.path={data}", f"run={folder}/run"]
        more = ["engine=deepspeed", "steps=1", "log.every=1"]
        command = [sys.executable, "-u", "-m", "launcher.cli", *verb, *more]
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        began = time.monotonic()
        with subprocess.Popen(
            command, cwd=checkout, env=environment, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.read(1)
            first = time.monotonic() - began
            line = next(line for line in process.stdout if line.startswith(b"step "))
            assert line, "no step"
            step = time.monotonic() - began
            process.stdout.read()
    return first, step


def main(data: str, *checkouts: str) -> None:
    places = [Path(c).resolve() for c in checkouts] or [Path(__file__).resolve().parents[1]]
    found: dict[Path, list[tuple[float, float]]] = {place: [] for place in places}
    for _ in range(ROUNDS):
        for place in places:
            found[place].append(measured(place, str(Path(data).resolve())))
    for place, rows in found.items():
        first, step = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{place.name}: first line {first:.1f} s, first step {step:.1f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
