"""`make bench-checkpoints`: what a save and a load cost, as ratios to plain reads and writes.

Two ranks of plain torch with AdamW and an average, about 1 GB of state in all. Every figure is the
median over rounds of the slower rank; what is compared is measured in turn, in one process.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import experiment
from hvdm import dist
from hvdm.checkpoint import checkpoint
from hvdm.checkpoint.saver import Saver
from hvdm.config import CheckpointConfig, EmaConfig, EngineConfig, OptimizerConfig
from hvdm.events import Reporter
from hvdm.train.ema import Ema
from hvdm.train.engine import LocalEngine
from tests.support.ranks import Ranks

LAYERS, BYTES_PER_ELEMENT = 300, 16
CHUNK = 2**20
WARM_UP = 3
"""Rounds until buffers and files are in pages that this machine has touched before."""


def _state(gigabytes: float) -> tuple[dict[str, Any], dict[str, Ema]]:
    torch.manual_seed(0)
    elements = int(gigabytes * 1e9 / BYTES_PER_ELEMENT / LAYERS)
    side = int(elements**0.5)
    net = nn.Sequential(*(nn.Linear(side, side) for _ in range(LAYERS)))
    engine = LocalEngine(net, EngineConfig("local"), OptimizerConfig("adamw", lr=1e-3))
    return {"net": engine}, {"net": Ema(engine, EmaConfig())}


def measure(folder: str, gigabytes: float, rounds: int) -> dict[str, Any]:
    """On every rank: seconds of each kind, by round."""
    engines, averages = _state(gigabytes)
    run = Path(folder)
    sync, beside = (
        Saver(run / name, engines, averages, _config(name), Reporter([]))
        for name in ("sync", "async")
    )
    took: dict[str, list[float]] = {}
    memory: dict[str, memoryview] = {}
    grown = _peak_of(lambda: _save(sync, 0))
    for i in range(WARM_UP + rounds):
        _once(took, "plain_write", lambda i=i: _plain_write(run, sync, i))
        for old in run.glob(f"plain-{i - 1}-of-{dist.rank()}-*"):
            old.unlink()
        _once(took, "save_sync", lambda i=i: _save(sync, i))
        sync.close()  # what retention removes is removed between two saves
        _once(took, "stall_async", lambda i=i: _beside(beside, i, took))
        beside.close()
        found = checkpoint.listed(run / "sync")[-1]
        _once(took, "plain_read", lambda found=found: _plain_read(found, memory))
        _once(took, "load", lambda found=found: _load(found, engines, averages))
    own = sync._copy.bytes
    return {"took": took, "state_bytes": own, "grown_by": grown / own}


def _config(name: str) -> CheckpointConfig:
    return CheckpointConfig(keep=1, asynchronous=name == "async")


def _once(took: dict[str, list[float]], name: str, action: Callable[[], float | None]) -> None:
    """Seconds of the slowest rank: all begin together, and it is over when the last is done."""
    dist.barrier()
    began = time.perf_counter()
    own = action()
    seconds = time.perf_counter() - began if own is None else own
    took.setdefault(name, []).append(max(dist.all_gather(seconds)))


def _save(saver: Saver, step: int) -> None:
    saver.begin(step, {})
    saver.finish_last()


def _compute() -> float:
    """Seconds of a forward and a backward pass, as it were."""
    began = time.perf_counter()
    a = torch.randn(512, 512)
    for _ in range(20):
        a = torch.tanh(a @ a / 512)
    return time.perf_counter() - began


def _beside(saver: Saver, step: int, took: dict[str, list[float]]) -> float:
    """Seconds for which training stood still; meanwhile it computes in steps, as the loop does:

    forward and backward passes, what has to be over before the weights move, and the boundary.
    By how much the first of them, beside the copy, is slower than one with nothing beside it, is
    told apart.
    """
    stalled, began = 0.0, time.perf_counter()
    saver.begin(step, {})
    stalled += time.perf_counter() - began
    steps = []
    while saver._flight:
        steps.append(_compute())
        dist.barrier()
        began = time.perf_counter()
        saver.before_update()
        saver.poll()
        stalled += time.perf_counter() - began
    dist.barrier()
    for name, seconds in (("step_beside_copy", steps[0]), ("step_alone", _compute())):
        took.setdefault(name, []).append(max(dist.all_gather(seconds)))
    return stalled


def _plain_write(run: Path, saver: Saver, number: int) -> None:
    """The same bytes, from the same memory: written, hashed and synced.

    Into new files, and with the last ones still there, as a save must: into the pages of a file
    that is overwritten, or has just been removed, it would be faster.
    """
    for name, image in saver._copy.images.items():
        path = run / f"plain-{number}-of-{dist.rank()}-{name}"
        digest = hashlib.sha256()
        with open(path, "wb") as handle:
            for chunk in image.chunks():
                handle.write(chunk)
                digest.update(chunk)
            handle.flush()
            os.fsync(handle.fileno())


def _plain_read(found: checkpoint.Checkpoint, memory: dict[str, memoryview]) -> None:
    """Every rank reads all weights and moments into memory, and hashes its share on the way."""
    for i, file in enumerate(sorted(found.manifest["files"])):
        digest = hashlib.sha256()
        own = i % dist.world() == dist.rank()
        size = found.manifest["files"][file]["bytes"]
        into = memory.setdefault(file, memoryview(bytearray(size)))
        with open(found.path / file, "rb", buffering=0) as handle:
            at = 0
            while count := handle.readinto(into[at : at + CHUNK]):
                if own:
                    digest.update(into[at : at + count])
                at += count


def _load(found: checkpoint.Checkpoint, engines: Any, averages: Any) -> None:
    assert checkpoint.shared_damage(found) is None
    checkpoint.restore(found, "net", engines["net"], averages["net"])


def _peak_of(action: Callable[[], None]) -> int:
    """By how many bytes the process's resident memory grew at most."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    action()
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise AssertionError(key)


def summary(answers: list[dict[str, Any]]) -> dict[str, Any]:
    took = answers[0]["took"]
    median = {name: statistics.median(seconds[WARM_UP:]) for name, seconds in took.items()}
    return {
        "state_gb": sum(a["state_bytes"] for a in answers) / 1e9,
        "seconds": {name: round(value, 4) for name, value in median.items()},
        "stall_over_sync": round(median["stall_async"] / median["save_sync"], 4),
        "stall_and_slowdown_over_sync": round(
            (median["stall_async"] + median["step_beside_copy"] - median["step_alone"])
            / median["save_sync"],
            4,
        ),
        "save_over_plain": round(median["save_sync"] / median["plain_write"], 3),
        "load_over_plain": round(median["load"] / median["plain_read"], 3),
        "memory_over_state": round(max(a["grown_by"] for a in answers), 3),
        "first_round": {name: round(seconds[0], 4) for name, seconds in took.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default="runs/.bench-checkpoints")
    given = parser.parse_args()
    shutil.rmtree(given.folder, ignore_errors=True)
    Path(given.folder).mkdir(parents=True)
    about = experiment.about("")
    ranks = Ranks(2)
    try:
        answers = ranks.run(measure, given.folder, given.gb, given.rounds)
    finally:
        ranks.close()
        shutil.rmtree(given.folder, ignore_errors=True)
    result = {**summary(answers), "rounds": given.rounds, **about}
    experiment.write("checkpoints", result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
