"""Frames of files, by one decoder whichever side they are on."""

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hvdm.data import child
from hvdm.data.arrays import read_array
from hvdm.data.containers import open_picture
from hvdm.data.decode import CannotDecode, Frames, decode_all
from hvdm.data.facts import whole
from hvdm.data.fields import about_of, read_media
from hvdm.data.schema import read_manifest
from hvdm.data.shards import ShardReader
from hvdm.disk import sha256_of_file
from hvdm.errors import RunError

FILMS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
LOSSY = (*FILMS, ".gif", ".jpg", ".jpeg")
ARRAYS, PICTURES, GIF = (".npz", ".npy"), (".png", ".jpg", ".jpeg"), ".gif"


def forget() -> None:
    """Lets go of what is known of folders and data sets: they may have changed since."""
    files_of.cache_clear()
    opened.cache_clear()


# Folders


@lru_cache(maxsize=8)
def files_of(path: str) -> Mapping[str, tuple[Path, ...]]:
    """The files of each video by its name, in the order of names."""
    root, found = Path(path), {}
    kinds = (*FILMS, GIF, *ARRAYS, *PICTURES)
    for entry in sorted(root.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            pictures = sorted(p for p in entry.iterdir() if p.suffix.lower() in PICTURES)
            if pictures:
                found[entry.name] = tuple(pictures)
        elif entry.suffix.lower() in kinds:
            found[entry.name] = (entry,)
    return found


def content_of(path: str) -> str:
    """sha256 over the names and bytes of a folder's clips."""
    digest = hashlib.sha256()
    for key, files in files_of(path).items():
        for file in files:
            digest.update(f"{key}/{file.name}\0{sha256_of_file(file)}\n".encode())
    return digest.hexdigest()


def read_files(files: tuple[Path, ...]) -> Frames:
    return _contained(str(files[0]), _read, files)


def _contained(name: str, function: Callable[..., Frames], *given: Any) -> Frames:
    """In a child, within limits of time and memory: it may be a stranger's file."""
    try:
        return child.call(function, *given)
    except CannotDecode as error:
        raise RunError(f"{error}; mend it or leave it away") from None
    except child.Failed as error:
        raise RunError(f"{name}: {error}; mend it or leave it away") from None


def _read(files: tuple[Path, ...]) -> Frames:
    if len(files) > 1:
        return np.concatenate([_picture(file) for file in files])
    suffix = files[0].suffix.lower()
    if suffix in ARRAYS:
        return _array(files[0])
    if suffix in PICTURES or suffix == GIF:
        return _picture(files[0])
    return decode_all(files[0].read_bytes(), str(files[0]), strict=True)


def _picture(path: Path) -> Frames:
    try:
        return picture_frames(path.read_bytes())
    except (OSError, ValueError, SyntaxError) as error:
        raise RunError(f"{path}: unreadable as a picture ({error})") from None


def picture_frames(data: bytes) -> Frames:
    """A picture is one frame, a gif all of its own."""
    from PIL import ImageSequence

    with open_picture(data) as image:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    return np.stack(frames)


def _array(path: Path) -> Frames:
    array = read_array(path, str(path))
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
        raise RunError(
            f"{path}: expected uint8 T H W 3, got {array.dtype} {'x'.join(map(str, array.shape))}; "
            "round to 0…255 before you save"
        )
    return np.asarray(array)


# Shards


@lru_cache(maxsize=2)
def opened(path: str) -> ShardReader:
    return ShardReader(path, read_manifest(path))


def sample(reader: ShardReader, index: int) -> tuple[str, Frames]:
    """A sample by its number in the manifest: its name, and all of its frames."""
    shard, inner = reader.place(index)
    key = f"{reader.manifest.shards[shard].name}/{reader.key(shard, inner)}"
    return key, _contained(key, _media, reader.sample(shard, inner), key)


def _media(parts: dict[str, bytes], key: str) -> Frames:
    """What a decoder would conceal is an error here: it would change a number."""
    return read_media(parts, strict=True, name=key)


def label_of(reader: ShardReader, index: int) -> int:
    """The class of a sample by its number; -1 where it has none."""
    shard, inner = reader.place(index)
    try:
        return whole(about_of(reader.sample(shard, inner)), "label", -1, least=-1)
    except CannotDecode as error:
        raise RunError(f"sample {index} of {reader.manifest.split}: {error}") from None
