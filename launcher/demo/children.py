"""Verbs as child processes of the demo: followed, and with all that they start, ended."""

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from hvdm.errors import RunError
from launcher.doctor.checks import parent, processes

_SET_DEATH_SIGNAL, _SET_SUBREAPER = 1, 36
PATIENCE_S = 15.0
_RAY_FOLDER = re.compile(r"/tmp/hvdm-ray-[\w-]+")
_LIBC = ctypes.CDLL(None)


@contextlib.contextmanager
def keeping_house() -> Iterator[None]:
    """Whatever is started inside is gone afterwards, also when a signal ends it.

    As a subreaper, this process inherits what its children leave behind, and so can find it.
    """
    if sys.platform == "linux":
        _LIBC.prctl(_SET_SUBREAPER, 1, 0, 0, 0)

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        end_descendants()
        for number, handler in before.items():
            signal.signal(number, handler)


def run(verb: Sequence[str], log: Path, watch: Callable[[str], None]) -> None:
    """Runs `hvdm VERB …` to its end; `watch` is handed the newest line of its output."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "launcher.cli", *verb]
    with open(log, "w") as out:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
            preexec_fn=_dies_with_us if sys.platform == "linux" else None,
        )
        try:
            while child.poll() is None:
                watch(last_line(log))
                time.sleep(0.2)
        finally:
            _end(child)
    if child.returncode:
        raise _failure(verb, log, child.returncode)


def _environment() -> dict[str, str]:
    """One thread per worker, and the code that this process runs."""
    here = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (here, os.environ.get("PYTHONPATH")) if p)
    unbuffered = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | unbuffered


def _dies_with_us() -> None:
    _LIBC.prctl(_SET_DEATH_SIGNAL, signal.SIGINT, 0, 0, 0)


def last_line(log: Path) -> str:
    with open(log, "rb") as handle:
        handle.seek(max(0, log.stat().st_size - 2000))
        lines = handle.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Asks first: a verb that is interrupted stops its own Ray session."""
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(PATIENCE_S)
    if child.poll() is None:
        child.kill()
        child.wait()


def _failure(verb: Sequence[str], log: Path, code: int) -> RunError:
    said = [line for line in log.read_text().splitlines() if line.startswith("hvdm: ")]
    cause = said[-1].removeprefix("hvdm: ") if said else last_line(log) or f"exit code {code}"
    return RunError(f"hvdm {verb[0]}: {cause} (all of it: {log}); the same command goes on here")


# What is left of children


def end_descendants() -> None:
    """Asks politely, waits, and ends the rest; Ray's folders go with its processes."""
    folders = {found for _, command in _descendants() for found in _RAY_FOLDER.findall(command)}
    for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        for pid, _ in _descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        until = time.monotonic() + patience
        while _descendants() and time.monotonic() < until:
            _reap()
            time.sleep(0.05)
    _reap()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _descendants() -> list[tuple[int, str]]:
    everyone = [(pid, parent(pid), command) for pid, command in processes()]
    family, grown = {os.getpid()}, True
    while grown:
        more = {pid for pid, above, _ in everyone if above in family} - family
        family, grown = family | more, bool(more)
    return [(pid, command) for pid, _, command in everyone if pid in family - {os.getpid()}]


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
