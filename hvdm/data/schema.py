"""What a data set says of itself: a manifest per split, and an index beside each shard.

A data set is `DIR/train`, `DIR/test`, …; each holds `manifest.json`, `shard-000000.tar`, … and for
each shard `shard-000000.index.json` with the byte range of every sample. A shard is an ordinary
WebDataset tar, so counts and places are known before anything is read.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hvdm.data.store import Absent, Store, open_store
from hvdm.disk import atomic_write, sha256_of
from hvdm.errors import RunError, UserError

VERSION = 1
MANIFEST = "manifest.json"
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
KEY = re.compile(r"[A-Za-z0-9_-]{1,200}")  # a file may be named by it
SHA256 = re.compile(r"[0-9a-f]{64}")


class DamagedSample(RunError):
    """One sample cannot be used: its shard, its key and why."""

    def __init__(self, shard: str, key: str, reason: str) -> None:
        super().__init__(
            f"{shard}/{key}: {reason}; `hvdm data verify` lists all that is damaged in the data set"
        )
        self.shard, self.key, self.reason = shard, key, reason

    def __reduce__(self) -> tuple[type["DamagedSample"], tuple[str, str, str]]:
        return DamagedSample, (self.shard, self.key, self.reason)


class Sample(NamedTuple):
    """A key and its parts by suffix, such as `mp4` and `json`."""

    key: str
    parts: Mapping[str, bytes]


@dataclass(frozen=True)
class Shard:
    """One tar file; `index_sha256` is the hash of the index beside it."""

    name: str
    bytes: int
    sha256: str
    samples: int
    index_sha256: str


@dataclass(frozen=True)
class Manifest:
    """All that is known of one split."""

    version: int
    split: str
    samples: int
    shards: tuple[Shard, ...]
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """Where a sample lies in its shard: a contiguous range of whole tar members, headers included.

    The hash is what finds damage: a video decoder hides most of it.
    """

    key: str
    offset: int
    bytes: int
    sha256: str


def canonical(value: Any) -> bytes:
    """JSON with one spelling for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def from_json(data: bytes) -> Any:
    """What a stranger's JSON says; a ValueError where it is none, or no text that can be written.

    JSON can spell halves of surrogate pairs, which no file and no page takes.
    """
    try:
        content = json.loads(data)
        if b"\\ud" in data.lower():
            canonical(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return content


def manifest_hash(manifest: Manifest) -> str:
    return sha256_of(canonical(asdict(manifest)))


def one_shard(manifest: Manifest, number: int) -> Manifest:
    """Of a single shard, or of none where there is no such one."""
    shards = manifest.shards[number : number + 1]
    total = sum(shard.samples for shard in shards)
    return Manifest(manifest.version, manifest.split, total, shards, {})


def write_manifest(folder: Path, manifest: Manifest) -> None:
    text = json.dumps(asdict(manifest), indent=1, sort_keys=True, ensure_ascii=False)
    atomic_write(folder / MANIFEST, f"{text}\n")


def read_manifest(folder: str | Path | Store) -> Manifest:
    """The manifest of a split's folder, such as `DIR/train` or `s3://bucket/set/train`."""
    store = open_store(folder) if isinstance(folder, str | Path) else folder
    local = store.local
    path = MANIFEST if local is None else str(local / MANIFEST)
    if local is not None and not (local / MANIFEST).is_file():
        raise UserError(_missing(local))
    try:
        data = store.read(MANIFEST)
    except Absent as error:
        raise UserError(f"{error}: data.path= is the folder or address above train/") from None
    try:
        content = from_json(data)
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); restore it or make it anew") from None
    return _manifest(content, path)


def splits(folder: str | Path) -> list[str]:
    """The splits of a data set folder, by name."""
    return sorted(path.parent.name for path in Path(folder).glob(f"*/{MANIFEST}"))


def _missing(folder: Path) -> str:
    above = folder.parent
    if (above / MANIFEST).is_file():
        return f"{above} is one split; name the whole data set: data.path={above.parent}"
    if not folder.is_dir() and (found := splits(above)):
        return f"{above} has no split {folder.name!r}; name another as data.train=: {found}"
    if not folder.is_dir():
        return (
            f"data set folder {folder} does not exist; make one with `hvdm data synthetic "
            f"out={above}`, or name another with data.path=DIR"
        )
    if found := splits(folder):
        return f"{folder} has no {MANIFEST}, its splits do: give " + " or ".join(
            str(folder / split) for split in found
        )
    return (
        f"{folder} has no {MANIFEST}, so it is not a data set; make one with "
        "`hvdm data synthetic out=DIR` or `hvdm data shard`"
    )


def _manifest(content: Any, path: str) -> Manifest:
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise UserError(
            f"{path} has schema version {version!r}, this program reads version {VERSION}; "
            "make the data set anew with `hvdm data …`"
        )
    shards = tuple(_shard(entry, path) for entry in _field(content, "shards", list, path))
    samples = _field(content, "samples", int, path)
    if samples != sum(shard.samples for shard in shards):
        raise UserError(f"{path}: {samples} samples, but its shards add up to another number")
    split, provenance = _field(content, "split", str, path), _provenance(content, path)
    return Manifest(VERSION, split, samples, shards, provenance)


def _provenance(content: Any, path: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = _field(content, "provenance", dict, path)
    if "first_stage" in found:
        _field(found["first_stage"], "weights", str, path)
    if "measured" in found:
        _field(found, "measured", dict, path)
    return found


def _shard(entry: Any, path: str) -> Shard:
    name = _field(entry, "name", str, path)
    if not FILE_NAME.fullmatch(name):
        raise UserError(f"{path}: {name!r} is not the plain file name of a shard")
    size, samples = _field(entry, "bytes", int, path), _field(entry, "samples", int, path)
    if size < 0 or samples < 0:
        raise UserError(f"{path}: negative size or count for {name}")
    sha256, index = _field(entry, "sha256", str, path), _field(entry, "index_sha256", str, path)
    return Shard(name, size, sha256, samples, index)


def _field(content: Any, name: str, kind: type, path: str) -> Any:
    value = content.get(name) if isinstance(content, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{path}: {name!r} is missing or not of type {kind.__name__}")
    return value


def _entry(content: Any, shard: Shard) -> Entry:
    """What names files and places: all of it can be a stranger's."""
    entry = Entry(**content)
    if not KEY.fullmatch(entry.key):
        raise ValueError(f"key {entry.key[:60]!r} is not of letters, digits, '_' and '-'")
    if not (entry.offset >= 0 and 0 <= entry.bytes <= shard.bytes - entry.offset):
        raise ValueError(f"{entry.key} lies outside of {shard.name}")
    if not SHA256.fullmatch(entry.sha256):
        raise ValueError(f"{entry.key} has no sha256")
    return entry


def index_name(shard: str) -> str:
    return f"{shard.removesuffix('.tar')}.index.json"


def index_path(folder: Path, shard: str) -> Path:
    return folder / index_name(shard)


def index_bytes(entries: tuple[Entry, ...]) -> bytes:
    return canonical({"version": VERSION, "samples": [asdict(entry) for entry in entries]})


def read_index(folder: Path | Store, shard: Shard) -> tuple[Entry, ...]:
    """The index of a shard, checked against the manifest."""
    store = open_store(folder) if isinstance(folder, Path) else folder
    name = index_name(shard.name)
    path = name if store.local is None else str(store.local / name)
    try:
        data = store.read(name)
    except Absent:
        raise RunError(f"index {path} is missing; `hvdm data repair` makes it anew") from None
    if sha256_of(data) != shard.index_sha256:
        raise RunError(
            f"index {path} is not the one of the manifest; `hvdm data repair` makes it anew"
        )
    try:
        entries = tuple(_entry(entry, shard) for entry in from_json(data)["samples"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"index {path} cannot be used: {error}") from None
    if len(entries) != shard.samples:
        raise RunError(f"{path}: {len(entries)} samples instead of {shard.samples}; restore it")
    return entries
