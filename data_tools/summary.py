"""What a data set holds, as numbers and as a page."""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from data_tools.journal import Journal
from data_tools.settings import Settings
from data_tools.tally import Census
from hvdm.data.decode import CannotDecode
from hvdm.data.facts import real, whole
from hvdm.data.fields import about_of
from hvdm.data.schema import (
    DamagedSample,
    Entry,
    Manifest,
    Shard,
    read_index,
    read_manifest,
    splits,
)
from hvdm.data.shards import parse
from hvdm.data.store import LocalStore
from hvdm.disk import atomic_write

HEAD = 16384
"""Bytes that hold the json of nearly every sample."""

PLACES = 4
"""Places that are named of those that share a reason."""

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .8rem .2rem 0;"
    "text-align:left;vertical-align:top;border-bottom:1px solid #ddd}td.n{text-align:right}"
    "h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}img,video{max-width:100%}"
    "figure{display:inline-block;margin:.4rem;width:14rem;vertical-align:top}"
    "figcaption{font-size:.8rem;color:#555;overflow-wrap:anywhere}"
)


def split_folders(folder: Path) -> list[Path]:
    """The splits of a data set, or the split itself."""
    names = splits(folder)
    if names:
        return [folder / name for name in names]
    read_manifest(folder)
    return [folder]


def stats(folder: str | Path) -> dict[str, Any]:
    """Counts and spreads of every split, read from the samples' facts."""
    return {path.name: _of_split(path) for path in split_folders(Path(folder))}


def _of_split(folder: Path, journal: Journal | None = None) -> dict[str, Any]:
    manifest = read_manifest(folder)
    tally = Census()
    for shard in manifest.shards:
        tally.merge(_told(journal, folder, manifest, shard) or _tally_of(folder, shard))
    size = sum(shard.bytes for shard in manifest.shards)
    return {
        "shards": len(manifest.shards),
        "clips": manifest.samples,
        "bytes": size,
        **tally.text(),
    }


def _told(
    journal: Journal | None, folder: Path, manifest: Manifest, shard: Shard
) -> dict[str, Any] | None:
    """What the job noted when it wrote this very shard; reading its samples again takes longer."""
    if journal is None:
        return None
    entry = journal.of_shard(folder.name, shard.name, manifest.provenance["parts"])
    return entry.get("tally") if entry and entry["shard"] == asdict(shard) else None


def _tally_of(folder: Path, shard: Shard) -> dict[str, Any]:
    tally = Census()
    for about in facts(folder, shard):
        tally.add(about)
    return tally.as_json()


def facts(folder: Path, shard: Shard) -> Iterator[dict[str, Any]]:
    """What the json of each sample says."""
    store = LocalStore(folder)
    for entry in read_index(folder, shard):
        try:
            yield _usable(about_of({"json": _json_part(store, shard.name, entry)}))
        except CannotDecode as error:
            raise DamagedSample(shard.name, entry.key, str(error)) from None


def _usable(about: dict[str, Any]) -> dict[str, Any]:
    """Numbers are numbers, and the source is a word: a stranger may write anything."""
    words = ("fps", "motion")
    numbers: dict[str, float] = {word: real(about, word, 0.0) for word in words if word in about}
    if "frames" in about:
        numbers["frames"] = whole(about, "frames", 0, least=0)
    return {**about, **numbers, "source": str(about.get("source"))}


def _json_part(store: LocalStore, shard: str, entry: Entry) -> bytes:
    """A sample's json without the video behind it: parts lie in the order of their suffixes."""
    start = store.read_range(shard, entry.offset, min(entry.bytes, HEAD))
    try:
        with tarfile.open(fileobj=io.BytesIO(start), mode="r:") as tar:
            member = tar.next()
            file = (
                tar.extractfile(member)
                if member and member.isreg() and member.name.endswith(".json")
                else None
            )
            data = file.read() if file else b"{}"
    except tarfile.TarError as error:
        raise DamagedSample(
            shard, entry.key, f"its first member cannot be read ({error})"
        ) from None
    if member and len(data) < member.size:
        whole = store.read_range(shard, entry.offset, entry.bytes)
        return parse(whole, shard, entry.key)["json"]
    return data


def write(out: Path, settings: Settings, fresh: int) -> dict[str, Any]:
    """`stats.json`, `quarantine.jsonl`, `filtered.jsonl` and `report.html` beside the shards."""
    done = Journal(out).done()
    lists = {
        name: [entry for part in done for entry in part[name]]
        for name in ("quarantine", "filtered", "notes")
    }
    whole = {
        "splits": {name: _of_split(out / name, Journal(out)) for name in splits(out)},
        "sources": sum(len(part["sources"]) for part in done),
        "quarantined": _counted(entry["error"] for entry in lists["quarantine"]),
        "filtered": _counted(entry["reason"] for entry in lists["filtered"]),
        "notes": lists["notes"],
    }
    _write_lines(out / "quarantine.jsonl", lists["quarantine"])
    _write_lines(out / "filtered.jsonl", lists["filtered"])
    atomic_write(out / "stats.json", json.dumps(whole, indent=1, sort_keys=True) + "\n")
    atomic_write(out / "report.html", page(out.name, whole, lists))
    return {**whole, "folder": str(out), "new_sources": fresh, **lists}


def _counted(reasons: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(reasons).items()))


def _write_lines(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    lines = (json.dumps(entry, sort_keys=True, ensure_ascii=False) + "\n" for entry in entries)
    atomic_write(path, "".join(lines))


def page(name: str, whole: Mapping[str, Any], lists: Mapping[str, Any]) -> str:
    parts = [f"<h1>{escape(name)}</h1>"]
    for split, one in whole["splits"].items():
        parts += [f"<h2>{escape(split)}</h2>", table(one.items())]
    for title, key in (("Quarantine", "quarantine"), ("Left out", "filtered"), ("Notes", "notes")):
        rows = _grouped(lists[key])
        parts += [f"<h2>{title}: {len(lists[key])}</h2>", table(rows)]
    return document(name, "\n".join(parts))


def _grouped(entries: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Source and reason; equal ones once, with their count and the places."""
    groups: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        reason = str(entry.get("error") or entry.get("reason") or entry.get("note"))
        groups.setdefault((entry["source"], reason), []).append(_place(entry))
    return [(source, f"{reason}{_places(at)}") for (source, reason), at in groups.items()]


def _place(entry: Mapping[str, Any]) -> str:
    if "seconds" in entry:
        start, end = entry["seconds"]
        return f"clip {entry['key']} at {start:.2f} to {end:.2f} s"
    if "start" in entry:
        return f"frames {entry['start']} to {entry['end']}"
    return f"clip {entry['key']}" if "key" in entry else ""


def _places(at: Sequence[str]) -> str:
    count = f"{len(at)} times: " if len(at) > 1 else ""
    more = ", …" if len(at) > PLACES else ""
    words = f"{count}{', '.join(filter(None, at[:PLACES]))}{more}"
    return f" ({words})" if words else ""


def table(rows: Iterable[tuple[str, Any]]) -> str:
    cells = (
        f"<tr><td>{escape(str(key))}</td><td>{escape(_words(value))}</td></tr>"
        for key, value in rows
    )
    return f"<table>{''.join(cells)}</table>"


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return str(value)


def document(title: str, body: str) -> str:
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style><body>{body}</body></html>\n"
    )


def text(whole: Mapping[str, Any]) -> str:
    """The summary for a terminal."""
    if not whole["new_sources"]:
        head = f"{whole['folder']}: complete already, nothing to do"
    else:
        head = f"{whole['folder']}: {whole['new_sources']} new sources"
    lines = [head]
    for split, one in whole["splits"].items():
        lines.append(
            f"  {split}: {one['clips']} clips in {one['shards']} shards, "
            f"{one['bytes'] / 1e6:.1f} MB"
        )
    for key, word in (("quarantine", "in quarantine"), ("filtered", "left out"), ("notes", "note")):
        rows = _grouped(whole[key])
        lines += [f"  {word}: {source}: {reason}" for source, reason in rows[:20]]
        if len(rows) > 20:
            lines.append(f"  {word}: {len(rows) - 20} more, see report.html")
    return "\n".join(lines)
