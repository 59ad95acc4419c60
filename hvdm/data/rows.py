"""From a place in a data set to a row of a batch, with a fixed substitute where it is damaged."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hvdm import rng
from hvdm.data import clips
from hvdm.data.clips import ClipSpec, Values
from hvdm.data.decode import CannotDecode
from hvdm.data.facts import whole
from hvdm.data.fields import Field, RawSample, about_of, present
from hvdm.data.schema import DamagedSample, Manifest, manifest_hash, one_shard, read_manifest
from hvdm.data.shards import ShardReader
from hvdm.data.store import OUTAGE_S, Cache, Store, Unreachable, open_store
from hvdm.errors import RunError, UserError


class Row(NamedTuple):
    """One sample, ready to be stacked."""

    fields: Mapping[str, Values]
    key: str
    draw: int


class Unreadable(NamedTuple):
    """A sample that cannot be read; a whole shard where the key is None."""

    source: int
    shard: str
    key: str | None
    reason: str


@dataclass(frozen=True)
class Reading:
    """How samples are read: the same in every thread and process."""

    spec: ClipSpec
    fields: tuple[Field, ...]
    seed: int
    decoder: str = "decord"
    timeout_s: float = 60.0
    outage_s: float = OUTAGE_S
    cache: str | None = None
    cache_gb: float = 100.0
    stall_s: float = 300.0
    beside: tuple[str, ...] = ()


@dataclass
class Damage:
    """What was found damaged so far; a set of its own in each process."""

    samples: set[tuple[str, str]] = field(default_factory=set)
    shards: set[str] = field(default_factory=set)

    def add(self, loss: Unreadable) -> None:
        if loss.key is None:
            self.shards.add(loss.shard)
        else:
            self.samples.add((loss.shard, loss.key))


Manifests = Mapping[str, Manifest]
"""By place: that of a split, then those of what was derived of it."""


class SplitReader:
    """One split of a data set, with what was derived of it; `number` is its place in a mixture.

    Manifests that are given are not read.
    """

    def __init__(
        self,
        folder: str | Path,
        reading: Reading,
        number: int = 0,
        manifests: Manifests | None = None,
    ) -> None:
        self.reading, self.number, self.place = reading, number, str(folder)
        known = manifests or _manifests(self.place, reading)
        readers = {place: _shards(place, reading, one) for place, one in known.items()}
        self.reader = readers.pop(self.place)
        self.manifest: Manifest = self.reader.manifest
        self.beside = readers
        self.known = Damage()

    def of_shard(self, shard: int) -> Manifests:
        """What is known of one shard, and of those that were derived of it."""
        readers = {self.place: self.reader, **self.beside}
        return {place: one_shard(reader.manifest, shard) for place, reader in readers.items()}

    def row(self, shard: int, sample: int, draw: int, shuffled: bool) -> Row:
        """The sample as it is; damage is an error."""
        name, key = self.manifest.shards[shard].name, self.reader.key(shard, sample)
        parts = self._parts(shard, sample, key)
        random = self._generators(draw) if shuffled else None
        try:
            return self._decoded(parts, f"{name}/{key}", draw, random)
        except CannotDecode as error:
            raise DamagedSample(name, key, str(error)) from error
        except (RunError, UserError):
            raise
        except Exception as error:  # whatever a stranger's bytes run a decoder into
            reason = str(error) or type(error).__name__
            raise DamagedSample(name, key, reason) from error

    def _parts(self, shard: int, sample: int, key: str) -> dict[str, bytes]:
        """The sample's own, and those that were derived of it."""
        parts = self.reader.sample(shard, sample)
        for place, reader in self.beside.items():
            number = reader.find(shard, key)
            if number is None:
                raise UserError(
                    f"{place} has no sample {key!r} beside the one of {self.place}: derive them "
                    "anew with `hvdm data derive`, one of each key, or leave it out of data.beside"
                )
            more = reader.sample(shard, number)
            if twice := sorted(parts.keys() & more.keys() - {"json"}):
                raise UserError(
                    f"{place} has {twice[0]} of {key!r}, which is there already: leave one of the "
                    "two out of data.beside"
                )
            parts = {**more, **parts}
        return parts

    def row_or_substitute(self, shard: int, sample: int, draw: int) -> tuple[Row, list[Unreadable]]:
        """The sample, or the next of its shard that can be read, and what could not."""
        losses: list[Unreadable] = []
        for other_shard, other in self._candidates(shard, sample):
            name = self.manifest.shards[other_shard].name
            try:
                if self._is_known(name, other_shard, other):
                    continue
                return self.row(other_shard, other, draw, shuffled=True), losses
            except DamagedSample as damage:
                losses.append(Unreadable(self.number, name, damage.key, damage.reason))
            except Unreachable as error:
                losses.append(Unreadable(self.number, name, None, str(error)))
            self.known.add(losses[-1])
        raise RunError(f"draw {draw}: no sample of the data set can be read; {losses[-1].reason}")

    def _candidates(self, shard: int, sample: int) -> Iterator[tuple[int, int]]:
        """The sample, the others of its shard after it, then those of the shards after that."""
        shards = self.manifest.shards
        for step in range(len(shards)):
            there = (shard + step) % len(shards)
            count = shards[there].samples
            for other in range(count):
                yield there, (sample + other) % count

    def _is_known(self, name: str, shard: int, sample: int) -> bool:
        if name in self.known.shards:
            return True
        if not self.known.samples:
            return False
        return (name, self.reader.key(shard, sample)) in self.known.samples

    def _generators(self, draw: int) -> clips.Generators:
        return lambda use: rng.numpy_generator(self.reading.seed, draw, use)

    def _decoded(
        self, parts: Mapping[str, bytes], name: str, draw: int, random: clips.Generators | None
    ) -> Row:
        raw = RawSample(parts, name, about_of(parts), self.reading.decoder)
        fields = present(self.reading.fields, raw, self.place)
        spec, timed = self.reading.spec, [field for field in fields if field.timed]
        seen = range(0)
        if timed:
            raw = replace(raw, total=_total(timed[0], raw))
            seen = _window(spec, raw, random).indices
        values = {f.name: f.decode(raw, seen[: f.frames] if f.timed else None) for f in fields}
        values = _in_view(spec, fields, values, random)
        if timed and spec.short == "pad":
            values["mask"] = (np.arange(spec.frames) < len(seen)).astype(np.float32)
        return Row(values, name, draw)


def _manifests(place: str, reading: Reading) -> Manifests:
    """Of the split, and of those beside it that were derived of it as it is."""
    own = read_manifest(_store(place, reading))
    derived = {other: read_manifest(_store(other, reading)) for other in reading.beside}
    made_from = manifest_hash(own) if derived else None
    kept = {key: one for key, one in derived.items() if one.provenance.get("from") == made_from}
    return {place: own, **kept}


def _store(place: str, reading: Reading) -> Store:
    return open_store(place, reading.timeout_s, reading.outage_s)


def _shards(place: str, reading: Reading, manifest: Manifest) -> ShardReader:
    cache = _cache(reading.cache, int(reading.cache_gb * 1e9)) if reading.cache else None
    return ShardReader(_store(place, reading), manifest, cache)


@lru_cache
def _cache(folder: str, limit_bytes: int) -> Cache:
    """One in a process: it counts what is there once, and keeps to its limit."""
    return Cache(folder, limit_bytes)


def _total(timed: Field, raw: RawSample) -> int:
    """By the json, or by decoding all: what a container says may be more."""
    return whole(raw.about, "frames", 0, least=0) or len(timed.decode(raw, None))


def _window(spec: ClipSpec, raw: RawSample, random: clips.Generators | None) -> clips.Window:
    total = raw.total or 0
    if total < spec.span and spec.short == "refuse":
        raise RunError(
            f"{raw.name} has {total} frames, a clip of {spec.frames} frames at stride "
            f"{spec.stride} needs {spec.span}; set fewer frames (data.frames, and what the recipe "
            "reads before them) or a smaller stride, or pad with data.short=pad"
        )
    return clips.random_window(spec, total, random) if random else clips.first_window(spec, total)


def _in_view(
    spec: ClipSpec,
    fields: Sequence[Field],
    values: Mapping[str, Values],
    random: clips.Generators | None,
) -> dict[str, Values]:
    """One view for all fields, each by its own rule; as long and of the type that was declared."""
    size, rows = _size(fields, values), dict(values)
    view = clips.view_of(spec, size, random) if size else None
    for one in fields:
        value = one.moves.follow(rows[one.name], view) if view else rows[one.name]
        rows[one.name] = clips.pad(value, one.frames) if one.timed else value
        one.check(rows[one.name])
    return rows


def _size(fields: Sequence[Field], values: Mapping[str, Values]) -> tuple[int, int] | None:
    """Of the pictures, which is one for all fields of a sample."""
    sizes = {f.name: size for f in fields if (size := f.moves.size(values[f.name]))}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} is {tall}x{wide}" for name, (tall, wide) in sizes.items())
        raise CannotDecode(f"its fields are of several sizes: {told}")
    return next(iter(sizes.values()), None)
