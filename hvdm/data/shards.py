"""Random access to the samples of WebDataset shards, through the index beside each."""

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from webdataset.tariterators import group_by_keys

from hvdm.data.schema import DamagedSample, Entry, Manifest, Shard, read_index
from hvdm.data.store import Absent, Cache, Outage, Store, Unreachable, open_store
from hvdm.disk import sha256_of
from hvdm.errors import RunError

T = TypeVar("T")
END_OF_TAR = bytes(1024)
INDICES_KEPT = 256


def parse(members: bytes, shard: str, key: str) -> dict[str, bytes]:
    """The parts of one sample by suffix; whole members and two zero blocks are a tar."""
    try:
        samples = list(group_by_keys(_files(members)))
    except Exception as error:
        raise DamagedSample(shard, key, f"its tar members cannot be read ({error})") from error
    if [sample["__key__"] for sample in samples] != [key]:
        raise DamagedSample(shard, key, "its byte range holds something else")
    return {suffix: part for suffix, part in samples[0].items() if not suffix.startswith("__")}


def _files(members: bytes) -> Iterator[dict[str, Any]]:
    """Plain files alone: what is compressed or sparse can be any size."""
    with tarfile.open(fileobj=io.BytesIO(members + END_OF_TAR), mode="r:") as tar:
        for member in tar:
            if member.issparse():
                raise ValueError("a sparse file")
            file = tar.extractfile(member) if member.isreg() else None
            if file is not None:
                yield {"fname": member.name, "data": file.read(), "__url__": None}


def check_range(data: bytes, entry: Entry, shard: str) -> None:
    """Refuses bytes that are not those that were written."""
    if len(data) != entry.bytes:
        raise DamagedSample(shard, entry.key, f"{len(data)} of {entry.bytes} bytes are there")
    if sha256_of(data) != entry.sha256:
        raise DamagedSample(shard, entry.key, "its bytes have changed since they were written")


def check_end(store: Store, shard: Shard, entries: tuple[Entry, ...]) -> None:
    """What follows the last sample is the end of the tar, at the size of the manifest."""
    end = entries[-1].offset + entries[-1].bytes if entries else 0
    tail = store.read_range(shard.name, end, shard.bytes - end + 1)
    if len(tail) != shard.bytes - end:
        there = "more" if len(tail) > shard.bytes - end else "fewer"
        raise RunError(
            f"shard {shard.name} has {there} bytes than the {shard.bytes} of the manifest; "
            "restore it, or see `hvdm data verify`"
        )
    if tail.strip(b"\0"):
        raise RunError(
            f"shard {shard.name} has changed after its last sample, where only zeros were "
            "written; restore it, or see `hvdm data verify`"
        )


class ShardReader:
    """Samples of a split by (shard, number); safe to use from many threads."""

    def __init__(
        self, folder: str | Path | Store, manifest: Manifest, cache: Cache | None = None
    ) -> None:
        self.store = open_store(folder) if isinstance(folder, str | Path) else folder
        self.manifest, self._cache = manifest, cache
        self._ends = np.cumsum([shard.samples for shard in manifest.shards])
        self._index = lru_cache(maxsize=INDICES_KEPT)(self._read_index)
        self._numbers = lru_cache(maxsize=INDICES_KEPT)(self._numbers_of)

    def size_problem(self, part: tuple[int, int] = (0, 1)) -> str | None:
        """What is missing or cut of a folder; `part` of how many share the work."""
        shards = self.manifest.shards[part[0] :: part[1]]
        return None if self.store.local is None else sizes_problem(self.store.local, shards)

    def _read_index(self, shard: int) -> tuple[Entry, ...]:
        found = self.manifest.shards[shard]
        entries = _twice(lambda: read_index(self.store, found))
        _twice(lambda: check_end(self.store, found, entries))
        return entries

    def place(self, number: int) -> tuple[int, int]:
        """Shard and number within it of a sample by its number in the manifest."""
        shard = int(np.searchsorted(self._ends, number, side="right"))
        return shard, number - int(self._ends[shard]) + self.manifest.shards[shard].samples

    def key(self, shard: int, index: int) -> str:
        return self._index(shard)[index].key

    def find(self, shard: int, key: str) -> int | None:
        """The number of a sample within its shard; None where it has no such one."""
        return self._numbers(shard).get(key)

    def _numbers_of(self, shard: int) -> dict[str, int]:
        entries = self._index(shard) if shard < len(self.manifest.shards) else ()
        return {entry.key: number for number, entry in enumerate(entries)}

    def sample(self, shard: int, index: int) -> dict[str, bytes]:
        """The parts of a sample by suffix, such as `mp4` and `json`."""
        name, entry = self.manifest.shards[shard].name, self._index(shard)[index]
        return parse(self._bytes(name, entry), name, entry.key)

    def _bytes(self, name: str, entry: Entry) -> bytes:
        if self._cache and (kept := self._cache.get(entry.sha256)):
            return kept
        data = _twice(lambda: self._checked(name, entry))
        if self._cache:
            self._cache.put(entry.sha256, data)
        return data

    def _checked(self, name: str, entry: Entry) -> bytes:
        data = self.store.read_range(name, entry.offset, entry.bytes)
        check_range(data, entry, name)
        return data


def _twice(read: Callable[[], T]) -> T:
    """Only damage that stays is damage of the data."""
    try:
        return read()
    except (Unreachable, Absent, Outage):
        raise  # the store has asked often enough
    except RunError:
        return read()


def size_problem(folder: Path, shard: Shard) -> str | None:
    """What the size of a shard's file says against it."""
    path = folder / shard.name
    if not path.is_file():
        return f"shard {path} is missing"
    size, wanted = path.stat().st_size, shard.bytes
    return None if size == wanted else f"shard {path} has {size} bytes instead of {wanted}"


def sizes_problem(folder: Path, shards: Iterable[Shard]) -> str | None:
    """Asks for the size of every file, which is what only one process should do."""
    problems = [problem for shard in shards if (problem := size_problem(folder, shard))]
    if not problems:
        return None
    more = f" (and {len(problems) - 1} more shards)" if len(problems) > 1 else ""
    return f"{problems[0]}{more}; restore it, or see `hvdm data verify {folder}`"
