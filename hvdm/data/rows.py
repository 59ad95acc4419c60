"""From a place in a data set to a row of a batch, with a fixed substitute where it is damaged."""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hvdm import rng
from hvdm.data import clips
from hvdm.data.clips import ClipSpec, Frames
from hvdm.data.decode import (
    CannotDecode,
    count_frames,
    decode_all,
    decode_image,
    read_frames,
)
from hvdm.data.schema import DamagedSample, Manifest, read_manifest
from hvdm.data.shards import ShardReader
from hvdm.data.store import Cache, Unreachable, open_store
from hvdm.errors import RunError

VIDEO_SUFFIXES = ("mp4", "mkv", "mov", "webm", "avi")
IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp", "bmp")
LATENT_SUFFIX = "latent.npy"

Field = npt.NDArray[Any] | np.generic


class Row(NamedTuple):
    """One sample, ready to be stacked."""

    fields: Mapping[str, Field]
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
    seed: int
    decoder: str = "decord"
    timeout_s: float = 60.0
    cache: str | None = None
    cache_gb: float = 100.0


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


class SplitReader:
    """One split of one data set; `number` is its place in a mixture."""

    def __init__(self, folder: str | Path, reading: Reading, number: int = 0) -> None:
        self.reading, self.number = reading, number
        store = open_store(folder, reading.timeout_s)
        self.manifest: Manifest = read_manifest(store)
        cache = Cache(reading.cache, int(reading.cache_gb * 1e9)) if reading.cache else None
        self.reader = ShardReader(store, self.manifest, cache)
        self.known = Damage()

    def row(self, shard: int, sample: int, draw: int, shuffled: bool) -> Row:
        """The sample as it is; damage is an error."""
        name, key = self.manifest.shards[shard].name, self.reader.key(shard, sample)
        parts = self.reader.sample(shard, sample)
        random = self._generators(draw) if shuffled else None
        try:
            return self._decoded(parts, f"{name}/{key}", draw, random)
        except (CannotDecode, TypeError, ValueError) as error:
            raise DamagedSample(name, key, str(error)) from error

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
        about = about_of(parts)
        facts: dict[str, Field] = {
            "label": np.int64(about.get("label", -1)),
            "motion": np.float32(about.get("motion", 0.0)),
        }
        if LATENT_SUFFIX in parts:
            return Row({"latent": latent_of(parts), **facts}, name, draw)
        return Row({**self._video(parts, about, name, random), **facts}, name, draw)

    def _video(
        self,
        parts: Mapping[str, bytes],
        about: Mapping[str, Any],
        name: str,
        random: clips.Generators | None,
    ) -> dict[str, Field]:
        spec = self.reading.spec
        suffix, media = media_of(parts)
        picture = decode_image(media, name) if suffix in IMAGE_SUFFIXES else None
        total = 1 if picture is not None else int(about.get("frames", 0))
        total = total or count_frames(media, name)
        if total < spec.span and spec.short == "refuse":
            raise RunError(_too_short(name, total, spec))
        window = (
            clips.random_window(spec, total, random) if random else clips.first_window(spec, total)
        )
        frames = picture
        if frames is None:
            frames = read_frames(media, window.indices, total, name, self.reading.decoder)
        frames, mask = clips.pad(clips.view(frames, spec, random), spec.frames)
        return {"video": frames, **({"mask": mask} if spec.short == "pad" else {})}


def _too_short(name: str, total: int, spec: ClipSpec) -> str:
    return (
        f"{name} has {total} frames, a clip of {spec.frames} frames at stride {spec.stride} "
        f"needs {spec.span}; set fewer frames (data.frames and data.before together) or a "
        "smaller stride, or pad with data.short=pad"
    )


def about_of(parts: Mapping[str, bytes]) -> dict[str, Any]:
    """What the sample's json says; nothing when there is none."""
    about = json.loads(parts.get("json", b"{}"))
    if not isinstance(about, dict):
        raise CannotDecode("its json is not an object")
    return about


def media_of(parts: Mapping[str, bytes]) -> tuple[str, bytes]:
    """The sample's video or picture, and its suffix."""
    for suffix in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES):
        if suffix in parts:
            return suffix, parts[suffix]
    wanted = ", ".join((*VIDEO_SUFFIXES, *IMAGE_SUFFIXES, LATENT_SUFFIX))
    raise CannotDecode(f"no video or picture ({wanted}) among its parts: {sorted(parts)}")


def latent_of(parts: Mapping[str, bytes]) -> npt.NDArray[np.float32]:
    """What a first stage made of the clip."""
    try:
        latent = np.load(io.BytesIO(parts[LATENT_SUFFIX]), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise CannotDecode(f"its latent cannot be read ({error})") from error
    return np.asarray(latent, np.float32)


def read_media(parts: Mapping[str, bytes], strict: bool = False) -> Frames:
    """Every frame of a sample; strict: damage that decoders conceal is an error too."""
    suffix, media = media_of(parts)
    if suffix in IMAGE_SUFFIXES:
        return decode_image(media)
    return decode_all(media, strict=strict)
