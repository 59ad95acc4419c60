"""Damaged shards made whole: from a copy, or without the samples that are lost."""

import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_tools.verify import DamagedPart, verify
from data_tools.writer import write_shard
from hvdm.data.schema import (
    DamagedSample,
    Entry,
    Manifest,
    Sample,
    Shard,
    index_bytes,
    index_path,
    manifest_hash,
    read_index,
    read_manifest,
    write_manifest,
)
from hvdm.data.shards import check_range, parse, size_problem
from hvdm.data.store import LocalStore
from hvdm.disk import atomic_write, replacing, sha256_of
from hvdm.errors import RunError, UserError


def repair(folder: str | Path, source: str | Path | None = None) -> dict[str, Any]:
    """Mends what `verify` finds; without a copy, lost samples are taken out of the manifest."""
    folder = Path(folder)
    report = verify(folder, decode=False)
    done: list[dict[str, Any]] = []
    splits = {damage.split for damage in report.damage}
    for split in sorted(splits):
        place = folder / split if (folder / split).is_dir() else folder
        copy = _copy_of(place, source, split) if source else None
        names = [d.shard for d in report.damage if d.split == split]
        done += _repair_split(place, dict.fromkeys(names), copy)
    left = verify(folder, decode=False).damage
    return {"ok": not left, "repaired": done, "left": [_line(damage) for damage in left]}


def _copy_of(place: Path, source: str | Path, split: str) -> Path:
    root = Path(source)
    copy = root / split if (root / split).is_dir() else root
    if manifest_hash(read_manifest(copy)) != manifest_hash(read_manifest(place)):
        raise UserError(f"source={copy} is no copy of {place}: its manifest is another")
    return copy


def _repair_split(place: Path, names: Iterable[str], copy: Path | None) -> list[dict[str, Any]]:
    manifest = read_manifest(place)
    known = {shard.name: shard for shard in manifest.shards}
    done: list[dict[str, Any]] = []
    for name in names:
        if name not in known:
            continue
        if copy is not None:
            done.append(_restored(place, known[name], copy))
        elif _index_can_be_made(place, known[name]):
            done.append({"shard": name, "how": "its index was made anew", "lost": []})
        else:
            known[name], lost = _without_lost(place, known[name])
            done.append({"shard": name, "how": "lost samples were taken out", "lost": lost})
    shards = tuple(shard for shard in known.values() if shard.samples or shard in manifest.shards)
    if shards != manifest.shards:
        _replace_manifest(place, manifest, shards, done)
    return done


def _restored(place: Path, shard: Shard, copy: Path) -> dict[str, Any]:
    for path in (Path(shard.name), index_path(Path(), shard.name)):
        with replacing(place / path) as part:
            shutil.copyfile(copy / path, part)
    return {"shard": shard.name, "how": f"copied from {copy}", "lost": []}


def _index_can_be_made(place: Path, shard: Shard) -> bool:
    """True when the shard is whole and its index is one that the tar itself gives."""
    try:
        read_index(place, shard)
        return False
    except RunError:
        pass
    if size_problem(place, shard):
        return False
    made = index_bytes(tuple(_entries(place / shard.name)))
    if sha256_of(made) != shard.index_sha256:
        return False
    atomic_write(index_path(place, shard.name), made)
    return True


def _entries(path: Path) -> Iterator[Entry]:
    """What the index holds, from the headers of the tar."""
    edges: dict[str, list[int]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // 512) * 512
                edges.setdefault(member.name.partition(".")[0], [member.offset]).append(end)
    except tarfile.TarError as error:
        raise RunError(f"{path} cannot be read as a tar ({error})") from None
    data = path.read_bytes()
    for key, ends in edges.items():
        whole = data[ends[0] : ends[-1]]
        yield Entry(key, ends[0], len(whole), sha256_of(whole))


def _without_lost(place: Path, shard: Shard) -> tuple[Shard, list[str]]:
    """The shard of those samples that are still what they were, under a name of its own."""
    store, lost, kept = LocalStore(place), list[str](), list[Sample]()
    try:
        entries = read_index(place, shard)
    except RunError as error:
        raise RunError(f"{error}: shard {shard.name} is beyond repair without source=") from None
    for entry in entries:
        try:
            data = store.read_range(shard.name, entry.offset, entry.bytes)
            check_range(data, entry, shard.name)
            kept.append(Sample(entry.key, parse(data, shard.name, entry.key)))
        except (DamagedSample, RunError):
            lost.append(entry.key)
    stem = shard.name.removesuffix(".tar").removesuffix("-repaired")
    made = write_shard(place / f"{stem}-repaired.tar", kept)
    for path in (place / shard.name, index_path(place, shard.name)):
        if path.name not in (made.name, index_path(place, made.name).name):
            path.unlink(missing_ok=True)
    return made, lost


def _replace_manifest(
    place: Path, before: Manifest, shards: tuple[Shard, ...], done: list[dict[str, Any]]
) -> None:
    """Runs pin the hash of a manifest, so a run of the damaged data set will notice."""
    lost = sorted(key for one in done for key in one["lost"])
    history = [*before.provenance.get("repairs", []), {"of": manifest_hash(before), "lost": lost}]
    provenance = {**before.provenance, "repairs": history}
    total = sum(shard.samples for shard in shards)
    write_manifest(place, replace(before, samples=total, shards=shards, provenance=provenance))


def _line(damage: DamagedPart) -> str:
    where = damage.shard if damage.key is None else f"{damage.shard}/{damage.key}"
    return f"{damage.split}/{where}: {damage.what}"


def text(answer: Mapping[str, Any]) -> str:
    if not answer["repaired"] and answer["ok"]:
        return "nothing to repair"
    lines = [f"{one['shard']}: {one['how']}" for one in answer["repaired"]]
    lines += [f"  lost: {key}" for one in answer["repaired"] for key in one["lost"]]
    return "\n".join(lines + [f"still damaged: {line}" for line in answer["left"]])
