"""What rows have of a sample: each field with its decoder and its rule in a view.

A recipe's module says what it reads; readers without a recipe read the video.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from hvdm.data.arrays import read_array
from hvdm.data.clips import Frames, Values
from hvdm.data.decode import CannotDecode, check_count, decode_image, frames_in, read_frames
from hvdm.data.facts import real, whole
from hvdm.data.moves import COLOURS, FIXED, Moves
from hvdm.data.schema import from_json
from hvdm.errors import UserError
from hvdm.recipe import Batch

VIDEO_SUFFIXES = ("mp4", "mkv", "mov", "webm", "avi", "gif")
IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp", "bmp")
LATENT_SUFFIX = "latent.npy"
SHARDING = "`hvdm data shard` and `hvdm data synthetic` write it"


@dataclass(frozen=True)
class RawSample:
    """A sample before it is decoded; `total` is how many frames it has, as far as that is known."""

    parts: Mapping[str, bytes]
    name: str
    about: Mapping[str, Any]
    decoder: str = "decord"
    total: int | None = None


Decode = Callable[[RawSample, Sequence[int] | None], Values]
"""Frames of these numbers; all of them, or what has no frames, without numbers."""


@dataclass(frozen=True)
class Field:
    """One thing that rows have.

    It is among the sample's parts under one of `suffixes`, or in its json under `key`. `shape` is a
    row's, None where only the sample knows it; the first axis of a `timed` one are frames. Rows go
    without an `optional` one where all samples do; it is not read where there is `unless`.
    """

    name: str
    suffixes: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...] | None
    decode: Decode
    moves: Moves = FIXED
    timed: bool = False
    key: str | None = None
    optional: bool = False
    unless: str | None = None
    made_by: str = "join it to the clips first"

    def __post_init__(self) -> None:
        if self.shape is None and not self.optional:
            raise UserError(f"field {self.name!r} has no shape, so it has to be optional")

    @property
    def frames(self) -> int:
        """How many of the sample's frames a row has of it."""
        return self.shape[0] if self.timed and self.shape else 0

    def is_in(self, raw: RawSample) -> bool:
        if self.key is not None:
            return raw.about.get(self.key) is not None
        return any(suffix in raw.parts for suffix in self.suffixes)

    def check(self, values: Values) -> None:
        """Refuses another type or shape than was declared."""
        shape = values.shape if self.shape is None else self.shape
        if values.dtype != self.dtype or values.shape != shape:
            found, wanted = "x".join(map(str, values.shape)), "x".join(map(str, shape))
            raise CannotDecode(
                f"its {self.name} is {values.dtype} {found}, and {self.dtype} {wanted} is read"
            )


def present(fields: Sequence[Field], raw: RawSample, place: str) -> list[Field]:
    """Those that a sample has; one that it has to have is named with who makes it."""
    names = {field.name for field in fields if field.is_in(raw)}
    wanted = [field for field in fields if field.unless not in names]
    for field in wanted:
        if field.name not in names and not field.optional:
            raise UserError(
                f"{place} has no field {field.name!r}, which this run reads: {raw.name} is without "
                f"it; {field.made_by}"
            )
    return [field for field in wanted if field.name in names]


def blank(fields: Sequence[Field], rows: int, masked: bool = False) -> Batch:
    """Zeros as a loader would hand them over, on the current default device."""
    shapes = {f.name: (f.shape, f.dtype) for f in fields if f.shape is not None and not f.optional}
    if masked and any(field.timed for field in fields):
        shapes["mask"] = ((max(field.frames for field in fields),), "float32")
    values = {
        name: torch.zeros(rows, *shape, dtype=getattr(torch, dtype))
        for name, (shape, dtype) in shapes.items()
    }
    keys = tuple(f"blank {row}" for row in range(rows))
    return Batch(values, keys, tuple(range(rows)), torch.ones(rows))


# Kinds of fields


class Sized(Protocol):
    """What has the shape of a clip, such as the `data` of a config."""

    @property
    def frames(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...


def video(
    clip: Sized, frames: int | None = None, name: str = "video", unless: str | None = None
) -> Field:
    """Frames `T H W C` of the sample's video or picture, of the clip's size."""
    shape = (frames or clip.frames, clip.height, clip.width, 3)
    suffixes = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)
    return Field(
        name, suffixes, "uint8", shape, _video, COLOURS, timed=True, unless=unless, made_by=SHARDING
    )


def number(name: str, dtype: str = "float32") -> Field:
    """A number of the sample's json."""
    read = partial(_number, name, dtype)
    return Field(name, ("json",), dtype, (), read, key=name, made_by=SHARDING)


def label(classes: int, setting: str = "model.labels") -> Field:
    """The class of the sample, below `classes`, or -1 where it is of none."""
    read = partial(_label, classes, setting)
    return Field("label", ("json",), "int64", (), read, key="label", made_by=SHARDING)


def array(
    name: str,
    suffix: str,
    shape: tuple[int, ...] | None,
    moves: Moves = FIXED,
    dtype: str = "float32",
    timed: bool = False,
    optional: bool = False,
    made_by: str = "join it to the clips first",
) -> Field:
    """A part that numpy saved, such as `flow.npy`."""
    read = partial(_array, name, suffix, dtype)
    return Field(
        name, (suffix,), dtype, shape, read, moves, timed, optional=optional, made_by=made_by
    )


def latent() -> Field:
    """What a first stage made of the clip, in data sets of that."""
    made_by = "`hvdm data encode` makes it"
    return array("latent", LATENT_SUFFIX, None, optional=True, made_by=made_by)


# Decoders


def _video(raw: RawSample, frames: Sequence[int] | None) -> Values:
    suffix, media = media_of(raw.parts)
    if frames is None:
        return read_media(raw.parts, name=raw.name)
    if suffix in IMAGE_SUFFIXES:
        check_count(1, frames, raw.total, raw.name)
        return decode_image(media, raw.name)
    return read_frames(media, frames, raw.total, raw.name, raw.decoder)


def _number(key: str, dtype: str, raw: RawSample, frames: Sequence[int] | None) -> Values:
    kind = np.dtype(dtype)
    value = real(raw.about, key, 0.0) if kind.kind == "f" else whole(raw.about, key, 0, least=-1)
    return np.asarray(kind.type(value))


def _label(classes: int, setting: str, raw: RawSample, frames: Sequence[int] | None) -> Values:
    value = _number("label", "int64", raw, frames)
    if value >= classes:
        raise UserError(
            f"{setting}={classes}, and {raw.name} has label {value}: set {setting} to the number "
            "of classes, which `hvdm data stats` tells"
        )
    return value


def _array(
    name: str, suffix: str, dtype: str, raw: RawSample, frames: Sequence[int] | None
) -> Values:
    loaded = read_array(raw.parts[suffix], f"its {name}")
    values = loaded.astype(dtype, casting="same_kind", copy=False)
    if frames is None:
        return values
    check_count(len(values), frames, None, f"{raw.name}, {name}")
    return values[list(frames)]


# Parts of a sample


def about_of(parts: Mapping[str, bytes]) -> dict[str, Any]:
    """What the sample's json says; nothing when there is none."""
    try:
        about = from_json(parts.get("json", b"{}"))
    except ValueError as error:
        raise CannotDecode(f"its json cannot be read ({error})") from None
    if not isinstance(about, dict):
        raise CannotDecode("its json is not an object")
    return about


def media_of(parts: Mapping[str, bytes]) -> tuple[str, bytes]:
    """The sample's video or picture, and its suffix."""
    for suffix in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES):
        if suffix in parts:
            return suffix, parts[suffix]
    wanted = ", ".join((*VIDEO_SUFFIXES, *IMAGE_SUFFIXES))
    raise CannotDecode(f"no video or picture ({wanted}) among its parts: {sorted(parts)}")


def read_media(parts: Mapping[str, bytes], strict: bool = False, name: str = "sample") -> Frames:
    """Every frame of a sample; strict: damage that decoders conceal is an error too."""
    return np.stack(list(media_frames(parts, strict, name)))


def media_frames(
    parts: Mapping[str, bytes], strict: bool = False, name: str = "sample"
) -> Iterator[Frames]:
    """One frame of a sample after the other."""
    suffix, media = media_of(parts)
    if suffix in IMAGE_SUFFIXES:
        return iter(decode_image(media, name))
    return frames_in(media, name, strict)
