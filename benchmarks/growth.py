"""What grows with a data set, a run and an evaluation: seconds and bytes at 10^3, 10^4 and 10^5.

Each figure is of a process of its own, which makes the thing first and then notes its memory; what
is counted is what using it adds. `times_linear` is how much more than ten times as much ten times
the size takes, above a floor below which nothing is worth counting. Pairs of features grow with the
square, which is said before they are begun.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import experiment
from data_tools.writer import Sample, write_shard
from eval.blocks.feature_store import FeatureStore
from eval.blocks.tasks import Payload
from eval.numbers import similarity
from eval.report import report
from eval.summaries import scores
from eval.summaries.frechet import Side
from hvdm.data.loader import ClipSpec, Loader, ReadOptions, Substitution
from hvdm.data.schema import VERSION, Manifest, write_manifest

SIZES = (1_000, 10_000, 100_000)
FLOOR_S, FLOOR_MB = 0.5, 32
DIMENSIONS, BLOCK, GROUPS = 32, 500, 20
SPEC = ClipSpec(frames=8, height=16, width=16)
Measured = dict[str, float]


@contextmanager
def counted(found: Measured) -> Iterator[None]:
    """Seconds, and by how much the most memory that was held grew."""
    with open("/proc/self/clear_refs", "w") as handle:
        handle.write("5")  # the peak begins anew from what is held now
    began, before = time.perf_counter(), _peak_kb()
    yield
    found["seconds"] = round(time.perf_counter() - began, 3)
    found["mb"] = round(max(0, _peak_kb() - before) / 1024, 1)


def _peak_kb() -> int:
    rows = Path("/proc/self/status").read_text().splitlines()
    return int(next(row.split()[1] for row in rows if row.startswith("VmHWM")))


# What grows


def shards(count: int, folder: Path) -> Measured:
    """A split of as many shards is opened and pinned as a rank does it, and one sample is drawn."""
    folder.mkdir(exist_ok=True)
    one = write_shard(folder / "shard-000000.tar", [Sample("a", {"json": b'{"frames": 8}'})])
    tar, index = folder / one.name, folder / "shard-000000.index.json"
    rows = []
    for number in range(count):
        name = f"shard-{number:06d}"
        if number:
            (folder / f"{name}.tar").symlink_to(tar)
            (folder / f"{name}.index.json").symlink_to(index)
        rows.append(type(one)(f"{name}.tar", one.bytes, one.sha256, 1, one.index_sha256))
    write_manifest(folder, Manifest(VERSION, folder.name, count, tuple(rows), {}))
    found: Measured = {}
    with counted(found), Loader(folder, SPEC, threads=0) as loader:
        loader.identity()
        loader.orders[0].locate(count - 1)
    return found


def lines(count: int, folder: Path) -> Measured:
    """`hvdm report` of a run that logged so many lines, and a hundredth as many events."""
    run = folder / "run"
    run.mkdir()
    spent = {"from": 0.0, "to": 1.0, "compute": 1.0, "data": 0.0, "checkpoint": 0.0, "idle": 0.0}
    with open(run / "metrics.jsonl", "w") as handle:
        for step in range(1, count + 1):
            row = {"step": step, "steps": count, "samples": step, "time": float(step),
                   "net/loss": 1 / step, "net/grad_norm": 1.0, "clips_per_s": 9.0,
                   "seconds_left": 1.0, "spent": {**spent, "to": float(step)}}  # fmt: skip
            handle.write(json.dumps(row) + "\n")
    with open(run / "events.jsonl", "w") as handle:
        handle.write(json.dumps({"event": "launched", "time": 0.0}) + "\n")
        handle.write(json.dumps({"event": "started", "time": 0.0, "step": 0}) + "\n")
        for step in range(100, count + 1, 100):
            handle.write(json.dumps({"event": "saved", "time": float(step), "step": step,
                                     "spent": {**spent, "to": float(step)}}) + "\n")  # fmt: skip
    found: Measured = {}
    with counted(found):
        report.write_report(run)
    return found


def substitutions(count: int, folder: Path) -> Measured:
    """As many samples cannot be read: they are learned, told, and put into a checkpoint."""
    shard = write_shard(folder / "shard-000000.tar", [Sample("a", {"json": b'{"frames": 8}'})])
    manifest = Manifest(VERSION, folder.name, 1, (shard,), {})
    write_manifest(folder, manifest)
    lost = [
        Substitution(draw, 0, shard.name, f"sample-{draw:08d}", "its bytes have changed", "a")
        for draw in range(count)
    ]
    found: Measured = {}
    options = ReadOptions(damaged=count)
    with counted(found), Loader(folder, SPEC, threads=0, options=options) as loader:
        loader.remember(lost)
        loader.new_substitutions()
        json.dumps(loader.substitutions())
    return found


def _stores(count: int, folder: Path) -> tuple[Side, Side]:
    made = []
    for side in range(2):
        random, blocks = np.random.default_rng(side), count // BLOCK
        store = FeatureStore(f"{'ab'[side]}" * 32, blocks, folder)
        for number in range(blocks):
            rows = random.normal(size=(BLOCK, DIMENSIONS)).astype(np.float32)
            keys = np.array([f"{number}-{i}" for i in range(BLOCK)])
            store.put(Payload(number, {"features": rows, "keys": keys}))
        made.append(Side(store, "features", store.groups(GROUPS)))
    return made[0], made[1]


def features(count: int, folder: Path) -> Measured:
    """What a distance needs of both sets: moments block by block, and one array as pages."""
    a, b = _stores(count, folder)
    found: Measured = {}
    with counted(found):
        assert len(a.moments) == len(b.moments)
        wholes = [similarity.joined(scores.grouped(side)) for side in (a, b)]
        assert [whole.shape for whole in wholes] == [(count, DIMENSIONS)] * 2
    return found


def pairs(count: int, folder: Path) -> Measured:
    """MMD^2 over all pairs of features."""
    print(f"pairs: {3 * count**2:.0e} kernels of {DIMENSIONS} dimensions", file=sys.stderr)
    a, b = _stores(count, folder)
    found: Measured = {}
    with counted(found):
        similarity.mmd2(scores.grouped(a), scores.grouped(b))
    return found


THINGS: dict[str, Callable[[int, Path], Measured]] = {
    "shards": shards, "lines": lines, "substitutions": substitutions, "features": features,
    "pairs": pairs,
}  # fmt: skip


MORE = {"lines": (*SIZES, 10**6), "pairs": SIZES[:2]}
"""A hundred thousand features have a hundred times the pairs of ten thousand: ask with --sizes."""


def alone(name: str, count: int) -> Measured:
    """In a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.growth", "--one", name, str(count)],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    print(done.stderr, end="", file=sys.stderr)
    found: Measured = json.loads(done.stdout)
    return found


def grown(rows: dict[int, Measured]) -> dict[str, float]:
    """The most that a step of ten costs above ten times as much."""
    sizes = sorted(rows)
    floors = {"seconds": FLOOR_S, "mb": FLOOR_MB}
    return {
        what: round(
            max(
                rows[b][what] / max(floor, rows[a][what] * b / a)
                for a, b in zip(sizes, sizes[1:])
            ),
            2,
        )
        for what, floor in floors.items()
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", nargs=2)
    parser.add_argument("--only", nargs="+", default=list(THINGS))
    parser.add_argument("--sizes", nargs="+", type=int)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(THINGS[asked.one[0]](int(asked.one[1]), Path(folder) / "")))
        return
    path = experiment.RESULTS / "growth.json"
    whole: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for name in asked.only:
        sizes = asked.sizes or MORE.get(name, SIZES)
        rows = {count: alone(name, count) for count in sizes}
        whole[name] = {**{str(k): v for k, v in rows.items()}, "times_linear": grown(rows)}
        print(json.dumps({name: whole[name]}), flush=True)
    whole |= experiment.about("--write")
    if asked.write:
        experiment.write("growth", whole)


if __name__ == "__main__":
    main()
