"""Samples become others, such as latents: `hvdm data derive`.

Each shard gives one of the same name, and then a journal entry: a job that was killed goes on from
there, and ends with the same bytes.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeGuard

from data_tools.journal import Journal, read, remove_parts, write
from data_tools.summary import split_folders
from data_tools.ticks import TICKS, shown, tick
from data_tools.writer import write_shard
from hvdm.building import imported
from hvdm.data import child
from hvdm.data.decode import CannotDecode
from hvdm.data.derivation import Derivation
from hvdm.data.schema import (
    VERSION,
    DamagedSample,
    Manifest,
    Sample,
    Shard,
    manifest_hash,
    read_manifest,
    write_manifest,
)
from hvdm.data.shards import ShardReader, size_problem
from hvdm.errors import UserError, closest

Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
SHORT = {"latents": "data_tools.encode:Latents", "depth": "data_tools.estimators:Depth"}
"""What needs no module's name."""


@dataclass(frozen=True)
class Deriving:
    """One shard to write, and the journal entry that it gets."""

    source: str
    number: int
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
            f"{name!r} names no derivation: expected {' or '.join(SHORT)}, FAMILY.NAME of "
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
        with shown(journal.folder / TICKS, "derived shards", len(missing), quiet):
            for _ in run(derive_shard, missing):
                pass
        remove_parts(out)
        for folder, before in manifests.items():
            shards = tuple(shard for job in jobs[folder] if (shard := _written(job)))
            total = sum(shard.samples for shard in shards)
            provenance = {**about, "from": made_from[folder.name]}
            made = Manifest(VERSION, before.split, total, shards, provenance)
            write_manifest(out / folder.name, made)
    counts = {folder.name: read_manifest(out / folder.name).samples for folder in folders}
    return {"folder": str(out), "clips": counts}


def _jobs(
    folder: Path, manifest: Manifest, journal: Journal, derivation: Derivation
) -> list[Deriving]:
    out = journal.folder.parent / folder.name
    out.mkdir(exist_ok=True)
    return [
        Deriving(
            str(folder.absolute()),
            number,
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
    shard = write_shard(Path(job.path), _samples(job))
    write(Path(job.entry), {"shard": asdict(shard)})
    tick(job.ticks, shard.samples, shard.bytes)


def _samples(job: Deriving) -> Iterator[Sample]:
    manifest = read_manifest(job.source)
    shard, reader = manifest.shards[job.number], ShardReader(job.source, manifest)
    for index in range(shard.samples):
        key, parts = reader.key(job.number, index), reader.sample(job.number, index)
        try:
            yield from job.derivation.samples(key, parts)
        except (CannotDecode, child.Failed) as error:
            raise DamagedSample(shard.name, key, str(error)) from None
