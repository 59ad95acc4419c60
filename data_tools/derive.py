"""Samples become others, such as latents: `hvdm data derive`.

Each shard gives one of the same name, and then a journal entry: a job that was killed goes on from
there, and ends with the same bytes.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from data_tools.journal import Journal, read, remove_parts, write
from data_tools.summary import split_folders
from data_tools.writer import write_shard
from hvdm.building import imported
from hvdm.data import child
from hvdm.data.decode import CannotDecode
from hvdm.data.derivation import Derivation, LeftOut, Measuring
from hvdm.data.schema import (
    VERSION,
    DamagedSample,
    Manifest,
    Sample,
    Shard,
    manifest_hash,
    one_shard,
    read_manifest,
    write_manifest,
)
from hvdm.data.shards import ShardReader, size_problem
from hvdm.errors import UserError, closest
from hvdm.progress import TICKS, tick, ticking

Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
SHORT = {
    "latents": "data_tools.encode:Latents",
    "depth": "data_tools.estimators:Depth",
    "motion": "data_tools.motion_volumes:MotionVolumes",
}
"""What needs no module's name."""


@dataclass
class DeriveTally:
    """What a shard's samples come to: their counts, and how many were left out for which reason."""

    left_out: Counter[str] = field(default_factory=Counter)
    counts: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)

    def add(self, counts: Mapping[str, npt.NDArray[np.int64]]) -> None:
        for name, more in counts.items():
            self.counts[name] = self.counts[name] + more if name in self.counts else more

    def as_json(self) -> dict[str, Any]:
        counts = {name: found.tolist() for name, found in self.counts.items()}
        told = {"left_out": dict(sorted(self.left_out.items())), "counts": counts}
        return {name: value for name, value in told.items() if value}

    def merge(self, entry: Mapping[str, Any]) -> None:
        self.left_out.update(entry.get("left_out", {}))
        self.add({name: np.array(found) for name, found in entry.get("counts", {}).items()})


@dataclass(frozen=True)
class Deriving:
    """One shard to write, and the journal entry that it gets."""

    source: str
    manifest: Manifest
    """Of this shard alone: the whole one may name a hundred thousand."""
    derivation: Derivation
    path: str
    entry: str
    ticks: str


def kind_of(name: str) -> type[Derivation]:
    """A short name, FAMILY.NAME of hvdm/recipes/FAMILY/deriving.py, or MODULE:NAME."""
    name = SHORT.get(name, name)
    spelt = re.fullmatch(r"(\w[\w.]*)([.:])(\w+)", name)
    module, sign, own = spelt.groups() if spelt else ("", "", "")
    found = imported(module if sign == ":" else f"hvdm.recipes.{module}.deriving")
    if found is None:
        raise UserError(
            f"{name!r} names no derivation: expected {', '.join(SHORT)}, FAMILY.NAME of "
            "hvdm/recipes/FAMILY/deriving.py, or MODULE:NAME of a module that Python can import"
        )
    kinds = {key: kind for key, kind in vars(found).items() if _is_kind(kind)}
    if own not in kinds:
        raise UserError(f"{found.__name__} has no derivation {own!r}; {closest(own, kinds)}")
    return kinds[own]


def _is_kind(found: Any) -> TypeGuard[type[Derivation]]:
    return isinstance(found, type) and is_dataclass(found) and issubclass(found, Derivation)


def derive(
    source: str | Path,
    out: str | Path,
    derivation: Derivation,
    run: Run = map,
    quiet: bool = True,
) -> dict[str, Any]:
    """One shard for each shard of the source, split by split."""
    out = Path(out).absolute()
    folders, journal = split_folders(Path(source)), Journal(out)
    journal.refuse_strangers("hvdm data derive")
    about = {"generator": "derive", "version": 1, **derivation.identity()}
    manifests = {folder: read_manifest(folder) for folder in folders}
    made_from = {folder.name: manifest_hash(manifests[folder]) for folder in folders}
    with journal.claimed():
        journal.same_job({**about, "from": made_from})
        jobs = {folder: _jobs(folder, manifests[folder], journal, derivation) for folder in folders}
        missing = [job for own in jobs.values() for job in own if _written(job) is None]
        with ticking(journal.folder / TICKS, "derived shards", len(missing), quiet):
            for _ in run(derive_shard, missing):
                pass
        remove_parts(out)
        for folder, before in manifests.items():
            found = (_written(job) for job in jobs[folder])
            shards = tuple(shard for shard in found if shard and shard.samples)
            total = sum(shard.samples for shard in shards)
            tally = _tally(jobs[folder])
            _check_left(folder, total, tally)
            provenance = {**about, "from": made_from[folder.name], **_told(derivation, tally)}
            made = Manifest(VERSION, before.split, total, shards, provenance)
            write_manifest(out / folder.name, made)
    made_here = {folder.name: read_manifest(out / folder.name) for folder in folders}
    counts = {name: manifest.samples for name, manifest in made_here.items()}
    left_out = {name: one.provenance.get("left_out", {}) for name, one in made_here.items()}
    told = {"left_out": left_out} if any(left_out.values()) else {}
    return {"folder": str(out), "clips": counts, **told}


def _tally(jobs: Iterable[Deriving]) -> DeriveTally:
    """Of a split, from the journal."""
    whole = DeriveTally()
    for job in jobs:
        whole.merge(read(Path(job.entry)) or {})
    return whole


def _told(derivation: Derivation, tally: DeriveTally) -> dict[str, Any]:
    """For the manifest; nothing of a derivation that neither counts nor leaves out."""
    told: dict[str, Any] = {"left_out": dict(sorted(tally.left_out.items()))}
    if isinstance(derivation, Measuring) and tally.counts:
        told["measured"] = derivation.measured(tally.counts)
    return {name: value for name, value in told.items() if value}


def _check_left(folder: Path, total: int, tally: DeriveTally) -> None:
    if not total and tally.left_out:
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(tally.left_out.items()))
        raise UserError(f"nothing of {folder} is left, all of it was left out ({reasons})")


def _jobs(
    folder: Path, manifest: Manifest, journal: Journal, derivation: Derivation
) -> list[Deriving]:
    out = journal.folder.parent / folder.name
    out.mkdir(exist_ok=True)
    return [
        Deriving(
            str(folder.absolute()),
            one_shard(manifest, number),
            derivation,
            str(out / shard.name),
            str(journal.shard_path(0, folder.name, number)),
            str(journal.folder / TICKS),
        )
        for number, shard in enumerate(manifest.shards)
    ]


def _written(job: Deriving) -> Shard | None:
    """The job's shard, where it is there whole."""
    entry = read(Path(job.entry))
    if entry is None:
        return None
    shard = Shard(**entry["shard"])
    return None if size_problem(Path(job.path).parent, shard) else shard


def derive_shard(job: Deriving) -> None:
    tally = DeriveTally()
    shard = write_shard(Path(job.path), _tallied(job, tally))
    write(Path(job.entry), {"shard": asdict(shard), **tally.as_json()})
    tick(job.ticks, shard.samples, shard.bytes)


def _tallied(job: Deriving, tally: DeriveTally) -> Iterator[Sample]:
    derivation = job.derivation
    for one in _samples(job):
        if isinstance(one, LeftOut):
            tally.left_out[one.reason] += 1
            continue
        if isinstance(derivation, Measuring):
            tally.add(derivation.counts(one))
        yield one


def _samples(job: Deriving) -> Iterator[Sample | LeftOut]:
    reader = ShardReader(job.source, job.manifest)
    for index in range(job.manifest.samples):
        key, parts = reader.key(0, index), reader.sample(0, index)
        try:
            yield from job.derivation.samples(key, parts)
        except (CannotDecode, child.Failed) as error:
            raise DamagedSample(job.manifest.shards[0].name, key, str(error)) from None
