"""Pictures inside files that hold many: CIFAR-10's pickles, STL-10's bytes, LMDB's values."""

import functools
import importlib
import io
import math
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hvdm.errors import UserError

Pixels = npt.NDArray[np.uint8]
LMDB, LOCK = (".mdb", ".lmdb"), "lock.mdb"
STL_SHAPE = (3, 96, 96)


def read_member(path: str, name: str, row: int) -> bytes:
    """A picture as it lies there where it is encoded, else as a PNG."""
    if Path(path).suffix in LMDB:
        return _lmdb_value(path, name)
    return png(stl_pixels(path, row) if path.endswith(".bin") else cifar_pixels(path, name, row))


def png(pixels: Any) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def suffix_of(data: bytes) -> str:
    """Of the file that an encoded picture would be."""
    from PIL import Image

    kind = str(Image.open(io.BytesIO(data)).format).lower()
    return "jpg" if kind == "jpeg" else kind


# CIFAR-10


def cifar_pixels(archive: str, batch: str, row: int) -> Pixels:
    data = cifar_pickle(archive, batch)["data"]
    return np.ascontiguousarray(np.asarray(data)[row].reshape(3, 32, 32).transpose(1, 2, 0))


@functools.lru_cache(maxsize=3)
def cifar_pickle(archive: str, name: str) -> dict[str, Any]:
    with tarfile.open(archive) as tar:
        member = next(m for m in tar.getmembers() if m.name.rsplit("/", 1)[-1] == name)
        file = tar.extractfile(member)
        assert file is not None
        content = _ArraysOnly(io.BytesIO(file.read()), encoding="bytes").load()
    return {_text(key): _plain(value) for key, value in content.items()}


def cifar_labels(archive: str, wanted: Sequence[str]) -> tuple[list[str], dict[str, list[int]]]:
    """The names of the classes, and the classes of each batch that is wanted and there."""
    with tarfile.open(archive) as tar:
        there = {name.rsplit("/", 1)[-1] for name in tar.getnames()}
    batches = sorted(there.intersection(wanted))
    kinds = cifar_pickle(archive, "batches.meta")["label_names"] if batches else []
    labels = {name: cifar_pickle(archive, name)["labels"] for name in batches}
    return list(map(str, kinds)), {name: list(map(int, own)) for name, own in labels.items()}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return [_text(entry) for entry in value]
    return value


class _ArraysOnly(pickle.Unpickler):
    """A pickle can run any code; these hold arrays, and nothing else is let in."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {"_reconstruct", "ndarray", "dtype"}
        if module.split(".")[0] == "numpy" and name in allowed:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise UserError(f"CIFAR-10's archive asks for {module}.{name}, which no data needs")


# STL-10


def stl_count(path: Path) -> int:
    size, each = path.stat().st_size, math.prod(STL_SHAPE)
    if size % each:
        raise UserError(
            f"{path} has {size} bytes, no whole number of 96x96 pictures: fetch it again"
        )
    return size // each


def stl_pixels(path: str, row: int) -> Pixels:
    """Each colour lies there column by column."""
    each = math.prod(STL_SHAPE)
    stored = np.fromfile(path, np.uint8, each, offset=row * each).reshape(STL_SHAPE)
    return np.ascontiguousarray(stored.transpose(2, 1, 0))


# LMDB


def lmdb_keys(path: str) -> list[str]:
    """In the order of the database, those of pictures."""
    with _opened(path).begin() as transaction:
        return [bytes(key).decode() for key in transaction.cursor().iternext(values=False)]


def _lmdb_value(path: str, key: str) -> bytes:
    with _opened(path).begin() as transaction:
        value = transaction.get(key.encode())
    if value is None:
        raise UserError(f"{path} has no {key!r} any more: it was changed since it was listed")
    side = math.isqrt(len(value) // 3)
    if len(value) == 3 * side * side and not value.startswith((b"\xff\xd8", b"\x89PNG", b"RIFF")):
        return png(np.frombuffer(value, np.uint8).reshape(side, side, 3))
    return bytes(value)


@functools.lru_cache(maxsize=4)
def _opened(path: str) -> Any:
    try:
        lmdb = importlib.import_module("lmdb")
    except ModuleNotFoundError:
        raise UserError(f"{path} needs the package lmdb: install hvdm[lsun]") from None
    try:
        return lmdb.open(path, subdir=False, readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise UserError(f"{path} is no LMDB that can be read ({error})") from None
