"""`make bench-eval`: clips per second over workers, memory over samples, seconds per distance."""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import experiment
from data_tools.synthetic.making import make
from eval.blocks.feature_store import FeatureStore
from eval.blocks.tasks import Payload
from eval.evaluate import Request, evaluate
from eval.numbers.jackknife import estimate
from eval.numbers.statistics import fold, frechet_distance, moments
from hvdm.config import ClusterConfig
from launcher.workers import cluster

CLIPS, FRAMES, SIDE = 256, 16, 64
ROUNDS = 3


def main() -> None:
    found = experiment.about("--write")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HVDM_CACHE"] = str(Path(folder) / "cache")
        found["workers"] = workers(Path(folder))
        found["memory"] = memory(Path(folder))
    found["frechet"] = [distance(400), distance(2048)]
    print(json.dumps(found, indent=1))
    if "--write" in sys.argv:
        experiment.write("evaluation", found)


def workers(folder: Path) -> dict[str, Any]:
    """1 against 2, side by side; and what 3, 8 and this process give is the same."""
    for name, seed in (("real", 1), ("made", 2)):
        make(folder / name, seed=seed, train=0, test=CLIPS, frames=FRAMES, height=SIDE, width=SIDE)
    here, _ = evaluated(folder, map)
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for count, seen in speeds.items():
            result, speed = evaluated(folder, timed(count))
            assert same(result, here), f"{count} workers gave other numbers"
            seen.append(speed)
    for count in (3, 8):
        result, _ = evaluated(folder, timed(count))
        assert same(result, here), f"{count} workers gave other numbers"
    median = {count: statistics.median(seen) for count, seen in speeds.items()}
    return {
        "clips_per_s": speeds,
        "two_against_one": median[2] / median[1],
        "equal_json_with": [0, 1, 2, 3, 8],
    }


class timed:
    """A cluster that notes when its workers are up: starting Ray is no part of the speed."""

    def __init__(self, count: int) -> None:
        self.where = ClusterConfig("local", workers=count, cpus_per_worker=2 / max(2, count))
        self.seconds = 0.0

    def __call__(self, function: Callable[[Any], Any], items: Any) -> Any:
        items = list(items)
        with cluster.session(self.where):
            self.results = iter(cluster.stream(self.where)(function, items))
            # the first blocks carry the start of the workers
            for _ in range(self.where.workers * 2):
                yield next(self.results)
            began = time.monotonic()
            yield from self.results
            self.seconds = time.monotonic() - began
            self.items = len(items) - self.where.workers * 2


def evaluated(folder: Path, run: Any) -> tuple[dict[str, Any], float]:
    shutil.rmtree(os.environ["HVDM_CACHE"], ignore_errors=True)
    request = Request(
        None, "fvd/videogpt@1", "untrained", real=str(folder / "real" / "test"),
        generated=str(folder / "made" / "test"), out=str(folder / "out"), again=True,
    )  # fmt: skip
    result = evaluate(request, run, lambda text: None)
    blocks = result["counts"]["blocks"] * 2
    clips = 2 * CLIPS * getattr(run, "items", blocks) / blocks
    return result, clips / run.seconds if isinstance(run, timed) else 0.0


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    timings = ("time", "seconds")
    return all(a[key] == b[key] for key in a if key not in timings)


def memory(folder: Path) -> dict[str, Any]:
    """The most that folding holds, over 2,560 and over 25,600 samples of 400 features."""
    return {"peak_mb": {blocks * 64: _peak(folder, blocks) for blocks in (40, 400)}}


def _peak(folder: Path, blocks: int) -> float:
    store = FeatureStore(f"{blocks:032d}", blocks, folder / "memory")
    random = np.random.Generator(np.random.PCG64(0))
    keys = np.asarray([str(i) for i in range(64)])
    for number in range(blocks):
        rows = random.normal(size=(64, 400)).astype(np.float32)
        store.put(Payload(number, {"features": rows, "keys": keys, "short": np.asarray(0)}))
    tracemalloc.start()
    store.moments("features", store.groups(20))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / 2**20


def distance(dimensions: int) -> dict[str, Any]:
    """From moments, and with the jackknife over the blocks of its protocol."""
    groups = 10 if dimensions > 1024 else 20
    rows = 5 * dimensions // groups
    random = np.random.Generator(np.random.PCG64(0))
    sides = [
        {k: moments(random.normal(size=(rows, dimensions))) for k in range(groups)}
        for _ in range(2)
    ]
    whole = [fold(side) for side in sides]
    seconds = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        frechet_distance(*whole)
        seconds.append(time.monotonic() - began)
    began = time.monotonic()
    estimate(*sides)
    return {
        "dimensions": dimensions,
        "seconds": min(seconds),
        "jackknife_seconds": time.monotonic() - began,
        "blocks": groups,
    }


if __name__ == "__main__":
    main()
