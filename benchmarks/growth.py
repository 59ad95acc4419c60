"""What grows with a data set, a run and an evaluation: seconds and bytes at 10^3, 10^4 and 10^5.

One process makes the thing, and another, fresh one uses it; what is counted is what using it adds:
processor seconds, and the most memory that is held. Each figure is the least of three.

`times_linear` is of slopes, so that no constant part hides what grows: how much more the tenfold
takes than ten times what the step of ten before it took, above a floor below which nothing is worth
counting. Pairs of features grow with the square, which is said before they are begun.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import experiment
from data_tools import rearrange, selection
from data_tools.items import Item
from data_tools.settings import Settings
from data_tools.writer import Sample, write_shard
from eval.blocks.feature_store import FeatureStore
from eval.blocks.tasks import Payload
from eval.numbers import similarity
from eval.report import report
from eval.summaries import scores
from eval.summaries.frechet import Side
from hvdm.data.loader import ClipSpec, Loader, ReadOptions, Substitution
from hvdm.data.schema import (
    VERSION,
    Entry,
    Manifest,
    Shard,
    index_bytes,
    index_path,
    write_manifest,
)
from hvdm.disk import sha256_of

SIZES = (1_000, 10_000, 100_000)
FLOOR_S, FLOOR_MB = 0.5, 32
TRIES = 3
DIMENSIONS, BLOCK, GROUPS = 32, 500, 20
PER_VIDEO, PER_SHARD = 20, 250
SPEC = ClipSpec(frames=8, height=16, width=16)
Measured = dict[str, float]


@contextmanager
def counted(found: Measured) -> Iterator[None]:
    """Processor seconds, children's too, and by how much the most memory that was held grew."""
    with open("/proc/self/clear_refs", "w") as handle:
        handle.write("5")  # the peak begins anew from what is held now
    began, before = _processor_s(), _peak_kb()
    yield
    found["seconds"] = round(_processor_s() - began, 3)
    found["mb"] = round(max(0, _peak_kb() - before) / 1024, 1)


def _processor_s() -> float:
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(who)[:2]) for who in whose)


def _peak_kb() -> int:
    rows = Path("/proc/self/status").read_text().splitlines()
    return int(next(row.split()[1] for row in rows if row.startswith("VmHWM")))


# What grows


def make_shards(count: int, folder: Path) -> None:
    one = write_shard(folder / "shard-000000.tar", [Sample("a", {"json": b'{"frames": 8}'})])
    rows = []
    for number in range(count):
        name = f"shard-{number:06d}"
        if number:
            (folder / f"{name}.tar").symlink_to(folder / one.name)
            (folder / f"{name}.index.json").symlink_to(folder / "shard-000000.index.json")
        rows.append(Shard(f"{name}.tar", one.bytes, one.sha256, 1, one.index_sha256))
    write_manifest(folder, Manifest(VERSION, folder.name, count, tuple(rows), {}))


def shards(count: int, folder: Path) -> None:
    """A split of as many shards is opened, asked for and pinned, and one sample is drawn."""
    with Loader(folder, SPEC, threads=0) as loader:
        assert loader.size_problem() is None
        loader.identity()
        loader.orders[0].locate(count - 1)


def make_clips(count: int, folder: Path) -> None:
    for name in ("a", "b"):
        split = folder / name / "train"
        split.mkdir(parents=True)
        rows = [_index(split, first) for first in range(0, count, PER_SHARD)]
        write_manifest(split, Manifest(VERSION, split.name, count, tuple(rows), {}))


def _index(folder: Path, first: int) -> Shard:
    """Of a shard that is not there."""
    keys = (f"clip-{number:09d}" for number in range(first, first + PER_SHARD))
    data = index_bytes(tuple(Entry(key, 0, 1, sha256_of(key.encode())) for key in keys))
    name = f"shard-{first // PER_SHARD:06d}.tar"
    index_path(folder, name).write_bytes(data)
    return Shard(name, 1, sha256_of(b""), PER_SHARD, sha256_of(data))


def clips(count: int, folder: Path) -> None:
    """As many are chosen from what was found in videos, and two data sets of them compared."""
    chosen = selection.make(_probed(count), Settings(test=0.0))
    assert len(chosen.splits["train"]) == count
    assert rearrange.diff(folder / "a", folder / "b")["equal"]


def _probed(count: int) -> Iterator[tuple[Item, dict[str, Any]]]:
    about = {"width": 64, "height": 64, "fps": "8", "first": "0"}
    piece = {"dark": 0.0, "change": 9.0, "motion": 0.5, "seen": "0" * 32}
    for number in range(count // PER_VIDEO):
        pieces = [
            {"start": 64 * n, "end": 64 * n + 64, **piece} for n in range(PER_VIDEO)
        ]  # fmt: skip
        found = {**about, "sha256": sha256_of(str(number).encode()), "clips": pieces}
        yield Item(f"{number}.mp4", f"/videos/{number}.mp4", "video"), found


def make_lines(count: int, folder: Path) -> None:
    """A run that logged so many lines, and a hundredth as many events."""
    spent = {"from": 0.0, "to": 1.0, "compute": 1.0, "data": 0.0, "checkpoint": 0.0, "idle": 0.0}
    with open(folder / "metrics.jsonl", "w") as handle:
        for step in range(1, count + 1):
            row = {"step": step, "steps": count, "samples": step, "time": float(step),
                   "net/loss": 1 / step, "net/grad_norm": 1.0, "clips_per_s": 9.0,
                   "seconds_left": 1.0, "spent": {**spent, "to": float(step)}}  # fmt: skip
            handle.write(json.dumps(row) + "\n")
    with open(folder / "events.jsonl", "w") as handle:
        handle.write(json.dumps({"event": "launched", "time": 0.0}) + "\n")
        handle.write(json.dumps({"event": "started", "time": 0.0, "step": 0}) + "\n")
        for step in range(100, count + 1, 100):
            handle.write(json.dumps({"event": "saved", "time": float(step), "step": step,
                                     "spent": {**spent, "to": float(step)}}) + "\n")  # fmt: skip


def lines(count: int, folder: Path) -> None:
    """`hvdm report` of the run."""
    report.write_report(folder)


def make_substitutions(count: int, folder: Path) -> None:
    shard = write_shard(folder / "shard-000000.tar", [Sample("a", {"json": b'{"frames": 8}'})])
    write_manifest(folder, Manifest(VERSION, folder.name, 1, (shard,), {}))


def substitutions(count: int, folder: Path) -> None:
    """As many samples cannot be read: they are learned, told, and put into a checkpoint."""
    options = ReadOptions(damaged=count)
    with Loader(folder, SPEC, threads=0, options=options) as loader:
        loader.remember(
            [
                Substitution(draw, 0, "shard-000000.tar", f"sample-{draw:08d}", "is cut", "a")
                for draw in range(count)
            ]
        )
        loader.new_substitutions()
        json.dumps(loader.substitutions())


def _stores(count: int, folder: Path) -> list[FeatureStore]:
    return [FeatureStore(name * 32, count // BLOCK, folder) for name in ("aa", "bb")]


def _sides(count: int, folder: Path) -> list[Side]:
    stores = _stores(count, folder)
    return [Side(store, "features", store.groups(GROUPS)) for store in stores]


def make_features(count: int, folder: Path) -> None:
    for side, store in enumerate(_stores(count, folder)):
        random = np.random.default_rng(side)
        for number in range(count // BLOCK):
            rows = random.normal(size=(BLOCK, DIMENSIONS)).astype(np.float32)
            keys = np.array([f"{number}-{i}" for i in range(BLOCK)])
            store.put(Payload(number, {"features": rows, "keys": keys}))


def features(count: int, folder: Path) -> None:
    """What a distance needs of both sets: moments block by block, and one array as pages."""
    a, b = _sides(count, folder)
    assert len(a.moments) == len(b.moments)
    wholes = [similarity.joined(scores.grouped(side)) for side in (a, b)]
    assert [whole.shape for whole in wholes] == [(count, DIMENSIONS)] * 2


def pairs(count: int, folder: Path) -> None:
    """MMD^2 over all pairs of features."""
    print(f"pairs: {3 * count**2:.0e} kernels of {DIMENSIONS} dimensions", file=sys.stderr)
    a, b = _sides(count, folder)
    similarity.mmd2(scores.grouped(a), scores.grouped(b))


@dataclass(frozen=True)
class Growing:
    """A thing, how it is made, how it is used, and at which sizes."""

    make: Callable[[int, Path], None]
    use: Callable[[int, Path], None]
    sizes: tuple[int, ...] = SIZES


THINGS = {
    "shards": Growing(make_shards, shards),
    "clips": Growing(make_clips, clips),
    "lines": Growing(make_lines, lines, (*SIZES, 10**6)),
    "substitutions": Growing(make_substitutions, substitutions),
    "features": Growing(make_features, features),
    "pairs": Growing(make_features, pairs, (1_000, 3_000, 10_000)),
}
"""A hundred thousand features have a hundred times the pairs of ten thousand: ask with --sizes."""


def alone(name: str, count: int) -> Measured:
    """Made by one process, used by others."""
    with tempfile.TemporaryDirectory() as folder:
        _command("--make", name, str(count), folder)
        tries = [_command("--use", name, str(count), folder) for _ in range(TRIES)]
    return {what: min(one[what] for one in tries) for what in tries[0]}


def _command(*words: str) -> Measured:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.growth", *words], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)
    print(done.stderr, end="", file=sys.stderr)
    found: Measured = json.loads(done.stdout)
    return found


def grown(rows: dict[int, Measured]) -> dict[str, float]:
    """Of each step, how much more it adds than the one before it lets expect; the most of them."""
    sizes = sorted(rows)
    found = {}
    for what, floor in {"seconds": FLOOR_S, "mb": FLOOR_MB}.items():
        ratios = []
        for a, b, c in zip(sizes, sizes[1:], sizes[2:]):
            expected = (rows[b][what] - rows[a][what]) * (c - b) / (b - a)
            ratios.append((rows[c][what] - rows[b][what]) / max(floor, expected))
        found[what] = round(max(ratios), 2)
    return found


def measured(use: Callable[[int, Path], None], count: int, folder: Path) -> Measured:
    found: Measured = {}
    with counted(found):
        use(count, folder)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--make", nargs=3)
    parser.add_argument("--use", nargs=3)
    parser.add_argument("--only", nargs="+", default=list(THINGS))
    parser.add_argument("--sizes", nargs="+", type=int)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if one := asked.make or asked.use:
        name, count, folder = one
        thing, place = THINGS[name], Path(folder)
        if asked.make:
            thing.make(int(count), place)
        print(json.dumps(measured(thing.use, int(count), place) if asked.use else {}))
        return
    whole = experiment.read("growth")
    for name in asked.only:
        rows = {count: alone(name, count) for count in asked.sizes or THINGS[name].sizes}
        whole[name] = {**{str(k): v for k, v in rows.items()}, "times_linear": grown(rows)}
        print(json.dumps({name: whole[name]}), flush=True)
        if asked.write:
            experiment.write("growth", whole | experiment.about("--write"))


if __name__ == "__main__":
    main()
