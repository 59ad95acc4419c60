"""The same samples in other shards: reshard, merge, and what differs between two data sets."""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.summary import split_folders
from data_tools.writer import commit_folder, part_folder, shard_name, write_shard
from hvdm.data.schema import (
    VERSION,
    Manifest,
    Sample,
    Shard,
    manifest_hash,
    read_index,
    read_manifest,
    write_manifest,
)
from hvdm.data.shards import ShardReader
from hvdm.errors import UserError
from hvdm.progress import TICKS, tick, ticking

Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True, eq=False)
class SamplePlaces:
    """Samples by the number of their split's folder, their shard there and their number in it.

    Millions of them, so keys stay in the indices; what orders or finds them is their hash.
    """

    folders: tuple[str, ...]
    rows: npt.NDArray[np.int32]
    hashes: npt.NDArray[np.bytes_]

    def take(self, chosen: Any) -> "SamplePlaces":
        return SamplePlaces(self.folders, self.rows[chosen], self.hashes[chosen])


@dataclass(frozen=True)
class Copying:
    """One shard to write from samples that lie elsewhere."""

    folder: str
    number: int
    places: SamplePlaces
    ticks: str


def reshard(
    source: str | Path,
    out: str | Path,
    per_shard: int = 256,
    seed: int | None = None,
    run: Run = map,
    quiet: bool = True,
) -> dict[str, Any]:
    """The samples in shards of another length; with a seed, in another order."""
    folders = split_folders(Path(source))
    wanted = {folder.name: _ordered(_places([folder], seed), seed) for folder in folders}
    made_from = {folder.name: [manifest_hash(read_manifest(folder))] for folder in folders}
    about = {"generator": "reshard", "arguments": {"per_shard": per_shard, "seed": seed}}
    return _write(Path(out), wanted, per_shard, about, made_from, run, quiet)


def merge(
    sources: Sequence[str | Path], out: str | Path, run: Run = map, quiet: bool = True
) -> dict[str, Any]:
    """Several data sets as one, split by split, in shards as long as the longest of theirs."""
    found: dict[str, list[Path]] = {}
    made_from: dict[str, list[str]] = {}
    longest = 1
    for source in sources:
        for folder in split_folders(Path(source)):
            manifest = read_manifest(folder)
            found.setdefault(folder.name, []).append(folder)
            made_from.setdefault(folder.name, []).append(manifest_hash(manifest))
            longest = max([longest, *(shard.samples for shard in manifest.shards)])
    wanted = {split: _places(folders) for split, folders in found.items()}
    for split, places in wanted.items():
        _refuse_doubles(split, places)
    return _write(Path(out), wanted, longest, {"generator": "merge"}, made_from, run, quiet)


def _places(folders: Sequence[Path], seed: int | None = None) -> SamplePlaces:
    rows, hashes = array("i"), bytearray()
    for number, folder in enumerate(folders):
        for shard, one in enumerate(read_manifest(folder).shards):
            for sample, entry in enumerate(read_index(folder, one)):
                rows.extend((number, shard, sample))
                hashes += hashlib.sha256(f"{seed}:{entry.key}".encode()).digest()
    numbers = np.frombuffer(rows, np.int32).reshape(-1, 3)
    names = tuple(str(folder.absolute()) for folder in folders)
    return SamplePlaces(names, numbers, np.frombuffer(bytes(hashes), "S32"))


def _ordered(places: SamplePlaces, seed: int | None) -> SamplePlaces:
    return places if seed is None else places.take(np.argsort(places.hashes, kind="stable"))


def _refuse_doubles(split: str, places: SamplePlaces) -> None:
    _, first, counts = np.unique(places.hashes, return_index=True, return_counts=True)
    twice = first[counts > 1]
    if len(twice):
        key, _ = next(_read(places.take(np.sort(twice)[:1])))
        raise UserError(
            f"{len(twice)} keys of split {split!r} are in more than one of the data sets, such as "
            f"{key}; `hvdm data diff` lists them"
        )


def _write(
    out: Path,
    wanted: Mapping[str, SamplePlaces],
    per_shard: int,
    about: Mapping[str, Any],
    made_from: Mapping[str, Sequence[str]],
    run: Run,
    quiet: bool,
) -> dict[str, Any]:
    if per_shard < 1:
        raise UserError(f"per_shard={per_shard} is below 1")
    if out.exists():
        raise UserError(f"{out} exists; give another out=DIR, or remove it")
    part = part_folder(out)
    ticks = part / TICKS
    jobs = {split: _jobs(part, split, wanted[split], per_shard, ticks) for split in wanted}
    every = [job for own in jobs.values() for job in own]
    with ticking(ticks, "wrote shards", len(every), quiet):
        shards = iter(list(run(copy_shard, every)))
    for split, own in jobs.items():
        written: tuple[Shard, ...] = tuple(next(shards) for _ in own)
        provenance = {**about, "version": 1, "from": list(made_from[split])}
        provenance |= _kept(wanted[split])
        total = sum(shard.samples for shard in written)
        write_manifest(part / split, Manifest(VERSION, split, total, written, provenance))
    commit_folder(part, out)
    return {"folder": str(out), "clips": {split: len(p.rows) for split, p in wanted.items()}}


def _kept(places: SamplePlaces) -> dict[str, Any]:
    """What later tools look for: the first stage that made latents; it has to be one."""
    used = np.unique(places.rows[:, 0]).tolist()
    stages = [read_manifest(places.folders[n]).provenance.get("first_stage") for n in used]
    if any(stage != stages[0] for stage in stages):
        raise UserError("these latents were made by different first stages; encode them anew")
    return {"first_stage": stages[0]} if stages and stages[0] else {}


def _jobs(
    part: Path, split: str, places: SamplePlaces, per_shard: int, ticks: Path
) -> list[Copying]:
    folder = part / split
    folder.mkdir()
    total = len(places.rows)
    count = -(-total // per_shard)
    edges = [round(number * total / count) for number in range(count + 1)] if count else []
    return [
        Copying(str(folder), number, places.take(slice(a, b)), str(ticks))
        for number, (a, b) in enumerate(zip(edges, edges[1:], strict=False))
    ]


def copy_shard(job: Copying) -> Shard:
    """Every sample is checked against its hash on the way."""
    shard = write_shard(Path(job.folder) / shard_name(job.number), _samples(job))
    tick(job.ticks, shard.samples, shard.bytes)
    return shard


def _samples(job: Copying) -> Iterator[Sample]:
    for key, parts in _read(job.places):
        yield Sample(key, parts)


def _read(places: SamplePlaces) -> Iterator[tuple[str, dict[str, bytes]]]:
    for folder, shard, sample in places.rows.tolist():
        reader = _reader(places.folders[folder])
        yield reader.key(shard, sample), reader.sample(shard, sample)


@lru_cache(maxsize=16)
def _reader(folder: str) -> ShardReader:
    return ShardReader(folder, read_manifest(folder))


@dataclass(frozen=True, eq=False)
class Contents:
    """What a split holds, in the order of the hashes of its keys: where, and which bytes."""

    folder: Path
    shards: Sequence[Shard]
    keys: npt.NDArray[np.bytes_]
    bytes: npt.NDArray[np.bytes_]
    rows: npt.NDArray[np.int32]

    def named(self, chosen: npt.NDArray[np.int64]) -> list[str]:
        """The keys themselves, which stay in the indices."""
        found, rows = [], self.rows[chosen]
        for shard in np.unique(rows[:, 0]).tolist():
            entries = read_index(self.folder, self.shards[shard])
            found += [entries[n].key for n in rows[rows[:, 0] == shard, 1].tolist()]
        return sorted(found)


def diff(a: str | Path, b: str | Path) -> dict[str, Any]:
    """For each split: samples of one alone, of both, and those that are not the same."""
    left, right = ({folder.name: folder for folder in split_folders(Path(x))} for x in (a, b))
    found = {
        split: _differences(_contents(left.get(split)), _contents(right.get(split)))
        for split in sorted({*left, *right})
    }
    different = ("only_first", "only_second", "changed")
    equal = not any(one[kind] for one in found.values() for kind in different)
    return {"equal": equal, "splits": found}


def _differences(ours: Contents, theirs: Contents) -> dict[str, Any]:
    _, here, there = np.intersect1d(ours.keys, theirs.keys, True, return_indices=True)
    same = ours.bytes[here] == theirs.bytes[there]
    return {
        "only_first": ours.named(np.setdiff1d(np.arange(len(ours.keys)), here, True)),
        "only_second": theirs.named(np.setdiff1d(np.arange(len(theirs.keys)), there, True)),
        "changed": ours.named(here[~same]),
        "same": int(same.sum()),
    }


def _contents(folder: Path | None) -> Contents:
    """Equal samples are equal bytes, headers included; a split that is not there holds none."""
    place, shards = (folder, read_manifest(folder).shards) if folder else (Path(), ())
    keys, hashes, rows = bytearray(), bytearray(), array("i")
    for number, shard in enumerate(shards):
        for sample, entry in enumerate(read_index(place, shard)):
            keys += hashlib.sha256(entry.key.encode()).digest()
            hashes += bytes.fromhex(entry.sha256)
            rows.extend((number, sample))
    known, first = np.unique(np.frombuffer(keys, "S32"), return_index=True)
    places = np.frombuffer(rows, np.int32).reshape(-1, 2)
    return Contents(place, shards, known, np.frombuffer(hashes, "S32")[first], places[first])


def text(answer: Mapping[str, Any]) -> str:
    lines = ["the same samples" if answer["equal"] else "not the same samples"]
    for split, one in answer["splits"].items():
        lines.append(
            f"{split}: {one['same']} the same, {len(one['changed'])} changed, "
            f"{len(one['only_first'])} only in the first, {len(one['only_second'])} in the second"
        )
        for kind in ("changed", "only_first", "only_second"):
            lines += [f"  {kind}: {key}" for key in one[kind][:10]]
    return "\n".join(lines)
