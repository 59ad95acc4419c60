"""A run of the paced family as people start it, and what is done to it while it is held."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from hvdm.checkpoint import checkpoint
from hvdm.events import read_lines

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240.0
ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests/paced")])
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": path}


def hvdm(*typed: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "launcher.cli", *typed]


def until(what: Callable[[], Any], process: "subprocess.Popen[str] | None" = None) -> Any:
    """Waits for something that another process does."""
    end = time.monotonic() + PATIENCE_S
    while not (found := what()):
        if process is not None and process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}:\n{process.communicate()}")
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


class Held:
    """A run whose steps wait where they are told to."""

    def __init__(self, folder: Path, data: Path, *more: str) -> None:
        self.run, self.holds = folder / "run", folder / "holds"
        self.holds.mkdir(parents=True)
        self.environment: Mapping[str, str] = environment()
        self.typed = [
            "train", f"config={ROOT}/tests/paced/paced.yaml", f"run={self.run}",
            f"data.path={data}", f"model.holds={self.holds}", *more,
        ]  # fmt: skip

    def hold(self, step: int) -> None:
        (self.holds / str(step)).touch()

    def release(self, step: int) -> None:
        (self.holds / f"{step}.reached").unlink()
        (self.holds / str(step)).unlink()

    def reached(self, step: int, process: "subprocess.Popen[str] | None" = None) -> None:
        until((self.holds / f"{step}.reached").exists, process)

    def start(
        self, command: Sequence[str] = (), typed: Sequence[str] = (), **more: Any
    ) -> "subprocess.Popen[str]":
        """The run, or what else is typed, behind a command such as one that enters a host."""
        return subprocess.Popen(
            [*command, *hvdm(*(typed or self.typed))],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )

    def events(self, name: str) -> list[dict[str, Any]]:
        return [e for e in read_lines(self.run / "events.jsonl") if e["event"] == name]

    def happened(
        self, name: str, times: int, process: "subprocess.Popen[str] | None" = None
    ) -> None:
        until(lambda: len(self.events(name)) >= times, process)


def workers(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The training processes below a command."""
    return [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "RayTrainWorker" in _command(child)
    ]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def hashes(run: Path) -> dict[int, Any]:
    return {found.step: checkpoint.hashes(found) for found in checkpoint.listed(run)}
