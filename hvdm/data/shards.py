"""Random access to the samples of WebDataset shards, through the index beside each."""

import io
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from webdataset.tariterators import group_by_keys, tar_file_expander

from hvdm.data.schema import DamagedSample, Entry, Manifest, Shard, read_index, sha256_of
from hvdm.errors import RunError

END_OF_TAR = bytes(1024)
INDICES_KEPT = 256
PAUSES = (0.1, 1.0)
"""Seconds before each new attempt when the file system, not the data, is at fault."""


def parse(members: bytes, shard: str, key: str) -> dict[str, bytes]:
    """The parts of one sample by suffix; whole members and two zero blocks are a tar."""
    source = {"url": shard, "stream": io.BytesIO(members + END_OF_TAR)}
    try:
        samples = list(group_by_keys(tar_file_expander([source])))
    except Exception as error:
        raise DamagedSample(shard, key, f"its tar members cannot be read ({error})") from error
    if [sample["__key__"] for sample in samples] != [key]:
        raise DamagedSample(shard, key, "its byte range holds something else")
    return {suffix: part for suffix, part in samples[0].items() if not suffix.startswith("__")}


def check_range(data: bytes, entry: Entry, shard: str) -> None:
    """Refuses bytes that are not those that were written."""
    if len(data) != entry.bytes:
        raise DamagedSample(shard, entry.key, f"{len(data)} of {entry.bytes} bytes are there")
    if sha256_of(data) != entry.sha256:
        raise DamagedSample(shard, entry.key, "its bytes have changed since they were written")


def read_range(path: Path, entry: Entry) -> bytes:
    """The bytes of a sample; a failing file system gets another chance."""
    for pause in PAUSES:
        try:
            return _read(path, entry)
        except OSError:
            time.sleep(pause)
    try:
        return _read(path, entry)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error}; check the disk or the mount") from error


def _read(path: Path, entry: Entry) -> bytes:
    # A handle per read: threads share nothing, and no limit on open files is met.
    with open(path, "rb", buffering=0) as file:
        file.seek(entry.offset)
        return file.read(entry.bytes)


class ShardReader:
    """Samples of a split by (shard, number); safe to use from many threads."""

    def __init__(self, folder: str | Path, manifest: Manifest) -> None:
        self.folder, self.manifest = Path(folder), manifest
        check_sizes(self.folder, manifest.shards)
        self._index = lru_cache(maxsize=INDICES_KEPT)(self._read_index)

    def _read_index(self, shard: int) -> tuple[Entry, ...]:
        return read_index(self.folder, self.manifest.shards[shard])

    def key(self, shard: int, index: int) -> str:
        return self._index(shard)[index].key

    def sample(self, shard: int, index: int) -> dict[str, bytes]:
        """The parts of a sample by suffix, such as `mp4` and `json`."""
        name, entry = self.manifest.shards[shard].name, self._index(shard)[index]
        data = read_range(self.folder / name, entry)
        check_range(data, entry, name)
        return parse(data, name, entry.key)


def size_problem(folder: Path, shard: Shard) -> str | None:
    """What the size of a shard's file says against it."""
    path = folder / shard.name
    if not path.is_file():
        return f"shard {path} is missing"
    size, wanted = path.stat().st_size, shard.bytes
    return None if size == wanted else f"shard {path} has {size} bytes instead of {wanted}"


def check_sizes(folder: Path, shards: Iterable[Shard]) -> None:
    """Stops before the first step when a shard is missing or cut."""
    problems = [problem for shard in shards if (problem := size_problem(folder, shard))]
    if problems:
        more = f" (and {len(problems) - 1} more shards)" if len(problems) > 1 else ""
        raise RunError(f"{problems[0]}{more}; restore it, or see `hvdm data verify {folder}`")
