"""Seeded damage and malice: bytes, JSON, YAML, tars and safetensors, and what they say inside."""

import io
import json
import random
import struct
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from hvdm.checkpoint import storage
from hvdm.data.schema import Manifest, index_bytes, read_manifest, write_manifest
from hvdm.disk import sha256_of

Random = random.Random
HOSTILE: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 10**30, -(10**30), 1e30, 0.5, float("nan"), float("inf"),
    "", " ", "x", "-1", "0", "nan", "../../outside", "/outside/abs", "a/../../b", "\0", "\n\n",
    "<script>alert(1)</script>", "x" * 100_000, "\ud800", "file:///dev/zero", "/dev/zero",
    "/dev/stdin", [], {}, [[]], [None], {"": None}, {"a": {"b": [1, 2, 3]}}, "${oc.env:HOME}",
    "http://127.0.0.1:9/x", "!!python/object:os.system", "step-00000009", "data", "*", "..", ".",
)  # fmt: skip


# Bytes


def mutated(data: bytes, random: Random, other: bytes = b"") -> bytes:
    """A flip, a cut, a hole, a repetition, a piece of something else."""
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        data = random.choice(BYTES)(data, random, other)
    return data


def _at(data: bytes, random: Random) -> tuple[int, int]:
    first = random.randrange(len(data) + 1)
    if random.random() < 0.3:
        first = min(first, 600)  # heads are where the sense is
    return first, min(len(data), first + random.choice((1, 4, 64, 512, 5000)))


def _flip(data: bytes, random: Random, other: bytes) -> bytes:
    if not data:
        return b"\xff"
    place = min(random.randrange(len(data)), random.choice((512, len(data) - 1)))
    return data[:place] + bytes([data[place] ^ 1 << random.randrange(8)]) + data[place + 1 :]


def _fill(data: bytes, random: Random, other: bytes) -> bytes:
    first, end = _at(data, random)
    return data[:first] + random.choice((b"\0", b"\xff", b"{")) * (end - first) + data[end:]


def _noise(data: bytes, random: Random, other: bytes) -> bytes:
    first, end = _at(data, random)
    return data[:first] + random.randbytes(end - first) + data[end:]


def _cut(data: bytes, random: Random, other: bytes) -> bytes:
    return data[: _at(data, random)[0]]


def _drop(data: bytes, random: Random, other: bytes) -> bytes:
    first, end = _at(data, random)
    return data[:first] + data[end:]


def _twice(data: bytes, random: Random, other: bytes) -> bytes:
    first, end = _at(data, random)
    return data[:end] + data[first:end] * random.choice((1, 40)) + data[end:]


def _other(data: bytes, random: Random, other: bytes) -> bytes:
    return random.choice((b"", other, data + other, b"[" * 100_000, b"\xff" + data))


BYTES: tuple[Callable[[bytes, Random, bytes], bytes], ...] = (
    _flip, _flip, _fill, _noise, _cut, _drop, _twice, _other
)  # fmt: skip


# Values


def twisted(value: Any, random: Random, times: int = 1) -> Any:
    """A hostile value, or a key lost, doubled or renamed, somewhere inside."""
    whole = [value]
    for _ in range(times):
        nodes = list(_nodes(whole))
        holder, key = random.choice(nodes)
        action = random.randrange(5)
        if action == 0:
            del holder[key]
            whole = whole or [None]
        elif action == 1 and isinstance(holder, list):
            holder.append(holder[key])
        elif action == 1:
            holder[str(random.choice(HOSTILE))[:40]] = holder.pop(key)
        else:
            holder[key] = random.choice(HOSTILE)
    return whole[0]


def _nodes(value: Any) -> Any:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in list(inner):
        yield value, key
        if isinstance(child, dict | list):
            yield from _nodes(child)


def in_json(path: Path, random: Random) -> None:
    content = twisted(json.loads(path.read_bytes()), random, random.choice((1, 1, 3)))
    path.write_bytes(json.dumps(content).encode())


def in_lines(path: Path, random: Random) -> None:
    """One line of a log among the others."""
    lines = path.read_bytes().splitlines()
    place = random.randrange(len(lines))
    lines[place] = json.dumps(twisted(json.loads(lines[place]), random)).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")


def in_yaml(path: Path, random: Random) -> None:
    content = twisted(yaml.safe_load(path.read_text()), random, random.choice((1, 1, 3)))
    path.write_bytes(yaml.safe_dump(content).encode())


def in_bytes(path: Path, random: Random, others: Sequence[Path] = ()) -> None:
    other = random.choice(others).read_bytes() if others else b"\0" * 100
    path.write_bytes(mutated(path.read_bytes(), random, other))


def in_safetensors(path: Path, random: Random) -> None:
    """What the head of the file says of its tensors."""
    data = path.read_bytes()
    size = int(struct.unpack("<Q", data[:8])[0])
    head = json.dumps(twisted(json.loads(data[8 : 8 + size]), random)).encode()
    length = len(head) if random.random() < 0.8 else random.choice((0, 2**40, 2**63))
    path.write_bytes(struct.pack("<Q", length) + head + data[8 + size :])


# With hashes that are right all the same


def signed_manifest(path: Path) -> None:
    """A checkpoint's, as a stranger writes it."""
    content = json.loads(path.read_bytes())
    if isinstance(content, dict):
        path.write_bytes(storage.dumped(content))


def signed_file(folder: Path, file: str) -> None:
    """A checkpoint's file is what its manifest says."""
    path = folder / "manifest.json"
    content, data = json.loads(path.read_bytes()), (folder / file).read_bytes()
    content["files"][file] = {"bytes": len(data), "sha256": sha256_of(data)}
    path.write_bytes(storage.dumped(content))


def signed_index(split: Path, name: str) -> None:
    """The manifest names an index as it is now."""
    manifest = read_manifest(split)
    data = (split / name.replace(".tar", ".index.json")).read_bytes()
    _replaced(split, manifest, name, index_sha256=sha256_of(data))


def _replaced(split: Path, manifest: Manifest, name: str, **changes: Any) -> None:
    shards = tuple(replace(s, **changes) if s.name == name else s for s in manifest.shards)
    samples = sum(shard.samples for shard in shards)
    write_manifest(split, replace(manifest, shards=shards, samples=samples))


def in_sample(split: Path, name: str, random: Random) -> str:
    """One sample of a shard, made anew: the hashes of all are right. Gives its key."""
    from hvdm.data.schema import Entry, read_index

    manifest, path = read_manifest(split), split / name
    shard = next(shard for shard in manifest.shards if shard.name == name)
    entries, data = list(read_index(split, shard)), path.read_bytes()
    place = random.randrange(len(entries))
    old = entries[place]
    made = _sample(data[old.offset : old.offset + old.bytes], random)
    whole = data[: old.offset] + made + data[old.offset + old.bytes :]
    grown = len(made) - old.bytes
    for number, one in enumerate(entries):
        if number == place:
            entries[number] = Entry(one.key, one.offset, len(made), sha256_of(made))
        elif one.offset > old.offset:
            entries[number] = replace(one, offset=one.offset + grown)
    index = index_bytes(tuple(entries))
    path.write_bytes(whole)
    path.with_name(name.replace(".tar", ".index.json")).write_bytes(index)
    hashes = {"sha256": sha256_of(whole), "index_sha256": sha256_of(index)}
    _replaced(split, manifest, name, bytes=len(whole), **hashes)
    return old.key


def _sample(data: bytes, random: Random) -> bytes:
    """Its tar members: a part's bytes, its json, or the heads of the tar."""
    if random.random() < 0.25:
        return mutated(data, random)
    made = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data + bytes(1024))) as old,
        tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as new,
    ):
        members = old.getmembers()
        chosen = random.choice(members)
        for member in members:
            file = old.extractfile(member)
            part = file.read() if file else b""
            if member is chosen:
                part = _part(member, part, random)
            member.size = len(part)
            new.addfile(member, io.BytesIO(part))
    return made.getvalue().rstrip(b"\0").ljust(-(-len(made.getvalue()) // 512) * 512 - 1024, b"\0")


def _part(member: tarfile.TarInfo, part: bytes, random: Random) -> bytes:
    if random.random() < 0.15:
        member.name = random.choice(("../../outside.mp4", "/outside.mp4", "x", member.name + ".gz"))
    if random.random() < 0.1:
        member.type, member.linkname = tarfile.SYMTYPE, "/dev/zero"
        return b""
    if member.name.endswith("json") and random.random() < 0.8:
        return json.dumps(twisted(json.loads(part), random)).encode()
    return mutated(part, random)
