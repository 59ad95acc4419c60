"""Writing shards: equal samples give equal bytes, and a folder appears whole or not at all."""

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from webdataset.writer import TarWriter

from hvdm.data.schema import (
    KEY,
    Entry,
    Sample,
    Shard,
    index_bytes,
    index_path,
)
from hvdm.disk import atomic_write, replacing, sha256_of, sync
from hvdm.errors import UserError


def shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def write_shard(path: Path, samples: Iterable[Sample]) -> Shard:
    """Writes a tar and its index; the tar has its name only when it is whole and on the disk."""
    with replacing(path) as part:
        ranges = _write_tar(part, samples)
        digest, entries = _hash_ranges(part, ranges)
        index = index_bytes(entries)
        atomic_write(index_path(path.parent, path.name), index)
    return Shard(path.name, path.stat().st_size, digest, len(entries), sha256_of(index))


def _write_tar(path: Path, samples: Iterable[Sample]) -> list[tuple[str, int, int]]:
    """The key, start and end of each sample in the new tar."""
    ranges: list[tuple[str, int, int]] = []
    seen: set[str] = set()
    with (
        open(path, "wb") as file,
        TarWriter(file, user="", group="", mtime=0, encoder=False) as writer,
    ):
        for sample in samples:
            _check_key(sample, seen, path)
            start = writer.tarstream.offset
            writer.write({"__key__": sample.key, **sample.parts})
            ranges.append((sample.key, start, writer.tarstream.offset))
    return ranges


def _check_key(sample: Sample, seen: set[str], path: Path) -> None:
    # Other characters end or split a sample when WebDataset reads it; two equal keys merge.
    if not KEY.fullmatch(sample.key):
        raise UserError(f"key {sample.key!r} in {path.name}: use letters, digits, '_', '-' only")
    if sample.key in seen:
        raise UserError(f"key {sample.key!r} comes twice in {path.name}; give each sample its own")
    if not sample.parts:
        raise UserError(f"sample {sample.key!r} for {path.name} has no parts")
    seen.add(sample.key)


def _hash_ranges(
    path: Path, ranges: Iterable[tuple[str, int, int]]
) -> tuple[str, tuple[Entry, ...]]:
    """The hash of the whole file and that of each sample, in one pass."""
    whole = hashlib.sha256()
    entries = []
    with open(path, "rb") as file:
        for key, start, end in ranges:
            data = file.read(end - start)
            whole.update(data)
            entries.append(Entry(key, start, end - start, sha256_of(data)))
        whole.update(file.read())
    return whole.hexdigest(), tuple(entries)


def part_folder(final: Path) -> Path:
    """An empty folder beside `final` to write into; what a killed run left there is removed."""
    part = final.parent / f".part-{final.name}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def commit_folder(part: Path, final: Path) -> None:
    """The rename is the commit: before it there is no data set, after it a whole one."""
    for folder in [path for path in part.rglob("*") if path.is_dir()] + [part]:
        sync(folder)
    part.rename(final)
    sync(final.parent)
