"""Is a data set what its manifests say? Damage is reported, never raised: `hvdm data verify`."""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hvdm.data import child
from hvdm.data.decode import CannotDecode
from hvdm.data.fields import about_of, media_frames
from hvdm.data.schema import MANIFEST, DamagedSample, Entry, Shard, read_index, read_manifest
from hvdm.data.shards import check_range, parse, size_problem
from hvdm.data.store import LocalStore
from hvdm.errors import RunError, UserError
from hvdm.progress import tick, ticking


@dataclass(frozen=True)
class DamagedPart:
    """One thing that is wrong; the key is None where it is about a whole file."""

    split: str
    shard: str
    key: str | None
    what: str


@dataclass(frozen=True)
class ShardReport:
    """What was found in one shard; `frames` counts those that were decoded."""

    split: str
    shard: str
    samples: int
    bytes: int
    frames: int = 0
    damage: tuple[DamagedPart, ...] = ()


@dataclass(frozen=True)
class Report:
    """What was found in a data set."""

    folder: str
    decoded: bool
    shards: tuple[ShardReport, ...]
    damage: tuple[DamagedPart, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.damage

    def as_json(self) -> dict[str, Any]:
        """The report for a program."""
        return {"ok": self.ok, **json.loads(json.dumps(asdict(self)))}

    def __str__(self) -> str:
        clips = sum(shard.samples for shard in self.shards)
        frames = sum(shard.frames for shard in self.shards)
        seen = f"{frames} frames decoded" if self.decoded else "nothing decoded"
        head = f"{self.folder}: {len(self.shards)} shards, {clips} clips, {seen}"
        lines = [f"{_where(damage)}: {damage.what}" for damage in self.damage]
        return "\n".join([f"{head}, {len(lines) or 'no'} damage", *lines])


@dataclass(frozen=True)
class VerifyJob:
    """One shard to look through."""

    folder: str
    split: str
    shard: Shard
    decode: bool
    ticks: str | None = None


Run = Callable[[Callable[[VerifyJob], ShardReport], Iterable[VerifyJob]], Iterable[ShardReport]]


def verify(folder: str | Path, decode: bool = True, run: Run = map, quiet: bool = True) -> Report:
    """Looks through a data set or one split of it; one shard is one job of `run`."""
    folder = Path(folder)
    jobs: list[VerifyJob] = []
    damage: list[DamagedPart] = []
    for split in _split_folders(folder):
        try:
            manifest = read_manifest(split)
        except UserError as error:
            damage.append(DamagedPart(split.name, MANIFEST, None, str(error)))
            continue
        damage += _doubles(split.name, manifest.shards) + _strangers(split, manifest.shards)
        jobs += [VerifyJob(str(split), split.name, shard, decode) for shard in manifest.shards]
    with tempfile.TemporaryDirectory() as ticks:
        path = Path(ticks) / "lines"
        with ticking(path, "looked through shards", len(jobs), quiet):
            jobs = [replace(job, ticks=str(path)) for job in jobs]
            reports = tuple(run(verify_shard, jobs))
    found = (one for report in reports for one in report.damage)
    return Report(str(folder), decode, reports, (*damage, *found))


def _split_folders(folder: Path) -> list[Path]:
    """The folders with a manifest, or with shards that have lost theirs."""
    if _has_data(folder):
        return [folder]
    found = [path for path in sorted(folder.glob("*/")) if _has_data(path)]
    if not found:
        read_manifest(folder)
    return found


def _has_data(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() or any(folder.glob("*.tar"))


def _doubles(split: str, shards: tuple[Shard, ...]) -> list[DamagedPart]:
    counts = Counter(shard.name for shard in shards)
    twice = [name for name, count in counts.items() if count > 1]
    return [DamagedPart(split, name, None, "is in the manifest more than once") for name in twice]


def _strangers(folder: Path, shards: tuple[Shard, ...]) -> list[DamagedPart]:
    known = {shard.name for shard in shards}
    strange = sorted(path.name for path in folder.glob("*.tar") if path.name not in known)
    return [DamagedPart(folder.name, name, None, "is not in the manifest") for name in strange]


def verify_shard(job: VerifyJob) -> ShardReport:
    """One shard: its size and hash, its index, and the samples in it.

    Without decoding, samples are looked at only where the shard's hash says that there is a reason.
    """
    frames = 0
    damage = [DamagedPart(job.split, job.shard.name, None, what) for what in _file_problems(job)]
    for key, count, what in _samples(job, every=job.decode or bool(damage)):
        frames += count
        if what:
            damage.append(DamagedPart(job.split, job.shard.name, key, what))
    shard = job.shard
    tick(job.ticks, shard.samples, shard.bytes, len(damage))
    return ShardReport(job.split, shard.name, shard.samples, shard.bytes, frames, tuple(damage))


def _file_problems(job: VerifyJob) -> Iterator[str]:
    path = Path(job.folder) / job.shard.name
    if problem := size_problem(Path(job.folder), job.shard):
        yield problem
        return
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        yield f"shard {path} cannot be read ({error})"
        return
    if digest != job.shard.sha256:
        yield f"shard {path} has another sha256 than the manifest"


def _samples(job: VerifyJob, every: bool) -> Iterator[tuple[str | None, int, str | None]]:
    """Key, frames decoded and what is wrong, for each sample."""
    path = Path(job.folder) / job.shard.name
    try:
        entries = read_index(Path(job.folder), job.shard)
    except RunError as error:
        yield None, 0, str(error)
        return
    if not path.is_file():
        yield from ((entry.key, 0, "is lost with its shard") for entry in entries)
        return
    for entry in entries if every else ():
        try:
            parts = _parts(path, entry)
            frames = child.call(_count, parts) if job.decode else 0
            yield entry.key, frames, None
        except DamagedSample as error:
            yield entry.key, 0, error.reason
        except RunError as error:
            yield entry.key, 0, str(error)


def _parts(path: Path, entry: Entry) -> dict[str, bytes]:
    data = LocalStore(path.parent).read_range(path.name, entry.offset, entry.bytes)
    check_range(data, entry, path.name)
    return parse(data, path.name, entry.key)


def _count(parts: dict[str, bytes]) -> int:
    """How many frames decode; raises when there are others than promised."""
    about = about_of(parts)
    count = sum(1 for _ in media_frames(parts, strict=True))
    promised = about.get("frames", count)
    if count != promised:
        raise CannotDecode(f"{count} frames where {promised} were promised")
    return count


def _where(damage: DamagedPart) -> str:
    return "/".join(part for part in (damage.split, damage.shard, damage.key) if part)
