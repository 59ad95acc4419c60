"""Leases: a file in RUN/leases that keeps retention away from a step for a while.

`{"step": N, "until": UNIX_TIME}`. Whoever holds one renews it; one that ran out counts for nothing,
so a killed job keeps nothing for long.
"""

import itertools
import json
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hvdm.disk import atomic_write
from hvdm.progress import repeating

LASTS_S = 600.0
FOR_GOOD = 4102444800.0
"""2100-01-01: until another step takes its place."""
_numbers = itertools.count()


def folder(run: Path) -> Path:
    return run / "leases"


def take(run: Path, name: str, step: int, until: float | None = None, **more: Any) -> Path:
    """Writes or renews a lease; equal names replace one another."""
    path = folder(run) / f"{re.sub(r'[^A-Za-z0-9._@-]', '_', name)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    ends = time.time() + LASTS_S if until is None else until
    atomic_write(path, json.dumps({"step": step, "until": ends, **more}) + "\n")
    return path


@contextmanager
def held(run: Path, step: int, lasts_s: float = LASTS_S) -> Iterator[None]:
    """A lease for as long as the block runs, renewed by a thread.

    A run folder that cannot be written to is read all the same.
    """
    name = f"reader-{platform.node()}-{os.getpid()}-{next(_numbers)}-step-{step:08d}"

    def renew() -> Path:
        return take(run, name, step, time.time() + lasts_s, why="being read")

    try:
        path = renew()
    except OSError:
        yield
        return
    try:
        with repeating(renew, lasts_s / 3):
            yield
    finally:
        path.unlink(missing_ok=True)


def current(run: Path) -> dict[str, int]:
    """The steps that are leased now, by the name of the lease."""
    found = {}
    for path in sorted(folder(run).glob("*.json")):
        try:
            content = json.loads(path.read_text())
            if content["until"] > time.time():
                found[path.stem] = int(content["step"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found
