"""Videos or pictures become shards: `hvdm data shard`.

Three passes, so that the result does not depend on timing: every source is probed, a plan is made
of all probes, shards are encoded from the plan. What is finished is in the journal; a job that was
killed goes on from there, and ends with the same bytes.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_tools import selection, summary
from data_tools.finding import changed, find
from data_tools.items import Item
from data_tools.journal import Journal, read, remove_parts, write
from data_tools.probe import PROBE_VERSION, probe
from data_tools.selection import ClipPlan, Selection
from data_tools.settings import TOOL_VERSION, Settings
from data_tools.tally import Census
from data_tools.transcode import sample_parts
from data_tools.writer import shard_name, write_shard
from hvdm.data import child
from hvdm.data.fields import about_of
from hvdm.data.schema import (
    MANIFEST,
    VERSION,
    Manifest,
    Sample,
    Shard,
    read_manifest,
    write_manifest,
)
from hvdm.data.shards import size_problem
from hvdm.errors import RunError, UserError
from hvdm.progress import TICKS, tick, ticking

TOGETHER = 128
"""Pictures in one probing job; videos have one each."""

Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


class Probed(NamedTuple):
    """A source, and the journal entry of what was found in it."""

    item: Item
    path: str


@dataclass(frozen=True)
class Probing:
    """Sources to probe, each with the journal entry that it gets."""

    sources: tuple[Probed, ...]
    settings: Settings
    ticks: str


@dataclass(frozen=True)
class Writing:
    """One shard to write, and the journal entry that it gets.

    A clip is its source and its number in it: what was found stays in the journal until then.
    """

    folder: str
    number: int
    sources: tuple[Probed, ...]
    numbers: tuple[int, ...]
    settings: Settings
    path: str
    ticks: str


def shard(
    source: str,
    out: str | Path,
    settings: Settings,
    layout: str | None = None,
    run: Run = map,
    quiet: bool = True,
) -> dict[str, Any]:
    """Shards what is new in the source; gives the summary of the data set."""
    out = Path(out).absolute()
    items = find(source, settings.mode == "images", layout)
    journal = Journal(out)
    journal.refuse_strangers("hvdm data shard")
    with journal.claimed():
        journal.same_job({**settings.as_json(), "layout": layout, "tool": TOOL_VERSION})
        new = _new_items(items, journal.done())
        if new:
            _shard_part(out, journal, new, settings, run, quiet)
            remove_parts(out)
        return summary.write(out, settings, fresh=len(new))


def _new_items(items: Sequence[Item], done: Sequence[dict[str, Any]]) -> list[Item]:
    """What no complete part holds; a source that has changed since is refused, or tried again."""
    used = {name: entry for part in done for name, entry in part["sources"].items()}
    new = []
    for item in items:
        before = used.get(item.name)
        if before is None:
            new.append(item)
        elif before["stamp"] != list(changed(item)):
            if before["used"]:
                raise UserError(
                    f"source {item.name} has changed since it was sharded; give it another name, "
                    "or make the data set anew"
                )
            new.append(item)
    return new


def _shard_part(
    out: Path, journal: Journal, items: list[Item], settings: Settings, run: Run, quiet: bool
) -> None:
    done = journal.done()
    sources = _probe_all(out, journal, items, settings, run, quiet)
    seen = [sha for part in done for sha in part["sha256"]]
    probed = ((source.item, _entry(source.path)) for source in sources)
    planned = selection.make(probed, settings, seen)
    written = _write_all(out, journal, len(done), sources, planned, settings, run, quiet)
    for split, shards in written.items():
        _extend_manifest(out / split, split, shards, settings, len(done))
    lost = [entry for shards in written.values() for one in shards for entry in one["lost"]]
    refused = {entry["source"] for entry in planned.quarantine}
    journal.finish(
        len(done),
        {
            "sources": {
                item.name: {"stamp": list(changed(item)), "used": item.name not in refused}
                for item in items
            },
            "sha256": sorted(planned.hashes),
            "quarantine": [*planned.quarantine, *lost],
            "filtered": planned.filtered,
            "notes": planned.notes,
        },
    )


# Pass 1


def _probe_all(
    out: Path, journal: Journal, items: list[Item], settings: Settings, run: Run, quiet: bool
) -> list[Probed]:
    how = {**settings.as_json(), "probe": PROBE_VERSION}
    sources = [
        Probed(item, str(journal.probe_path(asdict(item), changed(item), how))) for item in items
    ]
    missing = [source for source in sources if read(Path(source.path)) is None]
    together = TOGETHER if settings.mode == "images" else 1
    ticks = journal.folder / TICKS
    jobs = [
        Probing(tuple(missing[at : at + together]), settings, str(ticks))
        for at in range(0, len(missing), together)
    ]
    with ticking(ticks, "probed", len(missing), quiet):
        for _ in run(probe_items, jobs):
            pass
    return sources


def _entry(path: str) -> dict[str, Any]:
    found = read(Path(path))
    if found is None:
        raise RunError(f"{path} has gone while the job ran; start it again")
    return found


def probe_items(job: Probing) -> None:
    for item, path in job.sources:
        found = _probed(item, job.settings)
        write(Path(path), found)
        failed = "error" in found
        tick(job.ticks, len(found.get("clips", ())), found.get("bytes", 0), int(failed))


def _probed(item: Item, settings: Settings) -> dict[str, Any]:
    """What a source is; a failure is an answer too."""
    try:
        if changed(item) == (-1, -1):
            raise RunError("there is no such file")
        return child.call(probe, item, settings, limit_s=settings.limit_s)
    except (RunError, UserError) as error:
        return {"error": str(error), "stage": "probe"}


# Pass 3


def _write_all(
    out: Path,
    journal: Journal,
    part: int,
    sources: Sequence[Probed],
    planned: Selection,
    settings: Settings,
    run: Run,
    quiet: bool,
) -> dict[str, list[dict[str, Any]]]:
    """The journal entries of all shards of this part, by split."""
    ticks = journal.folder / TICKS
    jobs: dict[str, list[Writing]] = {}
    for split, clips in sorted(planned.splits.items()):
        folder = out / split
        folder.mkdir(exist_ok=True)
        first = _shards_before(folder, part)
        jobs[split] = [
            Writing(
                str(folder),
                first + number,
                tuple(sources[source] for source in group[:, 0]),
                tuple(group[:, 1].tolist()),
                settings,
                str(journal.shard_path(part, split, first + number)),
                str(ticks),
            )
            for number, group in enumerate(selection.shards(clips, settings.per_shard))
        ]
    every = [job for of_split in jobs.values() for job in of_split]
    missing = [job for job in every if not _is_written(job)]
    with ticking(ticks, "wrote clips of shards", sum(len(job.numbers) for job in missing), quiet):
        for _ in run(write_clips, missing):
            pass
    return {split: [_entry(job.path) for job in own] for split, own in jobs.items()}


def _shards_before(folder: Path, part: int) -> int:
    """How many shards the earlier parts have."""
    if part == 0 or not (folder / MANIFEST).is_file():
        return 0
    manifest = read_manifest(folder)
    numbers = (int(s.name.removeprefix("shard-").removesuffix(".tar")) for s in manifest.shards)
    # A job that was killed after it wrote the manifest finds its own shards there.
    ends = manifest.provenance["parts"]
    return sum(1 for number in numbers if bisect_right(ends, number) < part)


def _is_written(job: Writing) -> bool:
    entry = read(Path(job.path))
    if entry is None or entry["plan"] != selection.digest(_clips(job)):
        return False
    return size_problem(Path(job.folder), Shard(**entry["shard"])) is None


def _clips(job: Writing) -> list[ClipPlan]:
    """In their order; each source's entry is read once, and its other clips are let go."""
    places: dict[Probed, list[int]] = {}
    for place, source in enumerate(job.sources):
        places.setdefault(source, []).append(place)
    clips: dict[int, ClipPlan] = {}
    for source, own in places.items():
        found = _entry(source.path)
        for place in own:
            number = job.numbers[place]
            clips[place] = selection.clip(source.item, found, number, job.settings)
    return [clips[place] for place in range(len(clips))]


def write_clips(job: Writing) -> None:
    """One shard, and then its journal entry."""
    lost: list[dict[str, Any]] = []
    tally, clips = Census(), _clips(job)
    path = Path(job.folder) / shard_name(job.number)
    shard = write_shard(path, _samples(job, clips, lost, tally))
    write(
        Path(job.path),
        {
            "shard": asdict(shard),
            "plan": selection.digest(clips),
            "lost": lost,
            "tally": tally.as_json(),
        },
    )


def _samples(
    job: Writing, clips: Sequence[ClipPlan], lost: list[dict[str, Any]], tally: Census
) -> Iterable[Sample]:
    for clip in clips:
        try:
            parts = child.call(sample_parts, clip, job.settings, limit_s=job.settings.limit_s)
        except (RunError, UserError) as error:
            entry: dict[str, Any] = {"source": clip.item.name, "key": clip.key, "stage": "encode"}
            if job.settings.mode != "images":
                entry["seconds"] = list(clip.seconds)
            lost.append({**entry, "error": str(error)})
            tick(job.ticks, failures=1)
            continue
        tick(job.ticks, 1, sum(map(len, parts.values())))
        tally.add(about_of(parts))
        yield Sample(clip.key, parts)


def _extend_manifest(
    folder: Path, split: str, entries: Sequence[dict[str, Any]], settings: Settings, part: int
) -> None:
    """The shards of earlier parts, then the new ones; a new manifest with a hash of its own."""
    kept: tuple[Shard, ...] = ()
    ends: list[int] = []
    if part and (folder / MANIFEST).is_file():
        before = read_manifest(folder)
        kept = before.shards[: _shards_before(folder, part)]
        ends = [end for end in before.provenance["parts"] if end <= len(kept)]
    shards = (*kept, *(Shard(**entry["shard"]) for entry in entries))
    provenance = {
        "generator": "shard",
        "version": TOOL_VERSION,
        "settings": settings.as_json(),
        "parts": [*ends, len(shards)],
    }
    total = sum(shard.samples for shard in shards)
    write_manifest(folder, Manifest(VERSION, split, total, shards, provenance))
