"""What a data set holds, as numbers and as a page."""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from data_tools.journal import Journal
from data_tools.settings import Settings
from hvdm.data.fields import about_of
from hvdm.data.schema import (
    DamagedSample,
    Entry,
    atomic_write,
    read_index,
    read_manifest,
    splits,
)
from hvdm.data.shards import parse
from hvdm.data.store import LocalStore

HEAD = 16384
"""Bytes that hold the json of nearly every sample."""

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


def _of_split(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    about = list(facts(folder))
    seconds = [one["frames"] / one["fps"] for one in about if one.get("fps")]
    sizes = Counter(f"{one.get('height')}x{one.get('width')}" for one in about)
    classes = Counter(str(one.get("class", one.get("label", -1))) for one in about)
    return {
        "shards": len(manifest.shards),
        "clips": manifest.samples,
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "sources": len({one.get("source") for one in about}),
        "frames": _spread([one["frames"] for one in about if "frames" in one]),
        "seconds": round(sum(seconds), 3),
        "motion": _spread([one["motion"] for one in about if "motion" in one]),
        "sizes": dict(sorted(sizes.items())),
        "classes": dict(sorted(classes.items())),
    }


def facts(folder: Path) -> Iterator[dict[str, Any]]:
    """What the json of each sample says, in the order of the manifest."""
    store = LocalStore(folder)
    for shard in read_manifest(folder).shards:
        for entry in read_index(folder, shard):
            yield about_of({"json": _json_part(store, shard.name, entry)})


def _json_part(store: LocalStore, shard: str, entry: Entry) -> bytes:
    """A sample's json without the video behind it: parts lie in the order of their suffixes."""
    start = store.read_range(shard, entry.offset, min(entry.bytes, HEAD))
    try:
        with tarfile.open(fileobj=io.BytesIO(start), mode="r:") as tar:
            member = tar.next()
            file = tar.extractfile(member) if member and member.name.endswith(".json") else None
            data = file.read() if file else b"{}"
    except tarfile.TarError as error:
        raise DamagedSample(
            shard, entry.key, f"its first member cannot be read ({error})"
        ) from None
    if member and len(data) < member.size:
        whole = store.read_range(shard, entry.offset, entry.bytes)
        return parse(whole, shard, entry.key)["json"]
    return data


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    mean = sum(ordered) / len(ordered)
    return {"least": ordered[0], "median": middle, "mean": round(mean, 6), "most": ordered[-1]}


def write(out: Path, settings: Settings, fresh: int) -> dict[str, Any]:
    """`stats.json`, `quarantine.jsonl`, `filtered.jsonl` and `report.html` beside the shards."""
    done = Journal(out).done()
    lists = {
        name: [entry for part in done for entry in part[name]]
        for name in ("quarantine", "filtered", "notes")
    }
    whole = {
        "splits": stats(out) if splits(out) else {},
        "sources": sum(len(part["sources"]) for part in done),
        "quarantined": _counted(entry["error"] for entry in lists["quarantine"]),
        "filtered": _counted(entry["reason"] for entry in lists["filtered"]),
        "notes": lists["notes"],
    }
    _write_lines(out / "quarantine.jsonl", lists["quarantine"])
    _write_lines(out / "filtered.jsonl", lists["filtered"])
    atomic_write(out / "stats.json", json.dumps(whole, indent=1, sort_keys=True).encode() + b"\n")
    atomic_write(out / "report.html", page(out.name, whole, lists).encode())
    return {**whole, "folder": str(out), "new_sources": fresh, **lists}


def _counted(reasons: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(reasons).items()))


def _write_lines(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    lines = (json.dumps(entry, sort_keys=True, ensure_ascii=False) + "\n" for entry in entries)
    atomic_write(path, "".join(lines).encode())


def page(name: str, whole: Mapping[str, Any], lists: Mapping[str, Any]) -> str:
    parts = [f"<h1>{escape(name)}</h1>"]
    for split, one in whole["splits"].items():
        parts += [f"<h2>{escape(split)}</h2>", table(one.items())]
    for title, key in (("Quarantine", "quarantine"), ("Left out", "filtered"), ("Notes", "notes")):
        rows = [(entry["source"], _reason(entry)) for entry in lists[key]]
        parts += [f"<h2>{title}: {len(rows)}</h2>", table(rows)]
    return document(name, "\n".join(parts))


def _reason(entry: Mapping[str, Any]) -> str:
    where = f" (frames {entry['start']} to {entry['end']})" if "start" in entry else ""
    return str(entry.get("error") or entry.get("reason") or entry.get("note")) + where


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
        lines += [f"  {word}: {entry['source']}: {_reason(entry)}" for entry in whole[key][:20]]
        if len(whole[key]) > 20:
            lines.append(f"  {word}: {len(whole[key]) - 20} more, see report.html")
    return "\n".join(lines)
