"""What a job on a data set has finished: an entry appears whole, after what it speaks of.

journal/job.json               what was asked for
journal/probes/ab/ab….json     what was found in a source
journal/part-000/train-000000.json   a shard that is written
journal/part-000/done.json     the sources of a part of the data set that is complete
"""

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hvdm.data.schema import canonical
from hvdm.disk import atomic_write, locked, sha256_of
from hvdm.errors import UserError


class Journal:
    def __init__(self, out: Path) -> None:
        self.folder = out / "journal"

    def refuse_strangers(self, maker: str) -> None:
        """A folder of something else is not written into."""
        out = self.folder.parent
        if out.is_dir() and any(out.iterdir()) and not self.folder.is_dir():
            raise UserError(f"{out} exists and was not made by `{maker}`; give another out=DIR")

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """One job at a time; the kernel lets go when the process dies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        busy = f"another job is writing into {self.folder.parent}; wait for it or stop it"
        with locked(self.folder / ".lock", refusal=busy):
            yield

    def same_job(self, asked: Mapping[str, Any]) -> None:
        """A job goes on only with the settings that it began with."""
        path = self.folder / "job.json"
        before = read(path)
        if before is None:
            write(path, asked)
        elif canonical(before) != canonical(asked):
            changed = sorted(k for k in {*before, *asked} if before.get(k) != asked.get(k))
            was = " ".join(f"{key}={before.get(key)}" for key in changed)
            raise UserError(
                f"{self.folder.parent} was begun with {was}; set it back, or give another out=DIR"
            )

    def probe_path(self, *identity: Any) -> Path:
        name = sha256_of(canonical(identity))[:32]
        return self.folder / "probes" / name[:2] / f"{name}.json"

    def shard_path(self, part: int, split: str, number: int) -> Path:
        return self._part(part) / f"{split}-{number:06d}.json"

    def of_shard(self, split: str, name: str, ends: Sequence[int]) -> dict[str, Any] | None:
        """The entry of a shard by its name; `ends` are the counts of shards after each part."""
        number = shard_number(name)
        if number is None:
            return None
        return read(self.shard_path(bisect_right(ends, number), split, number))

    def done(self) -> list[dict[str, Any]]:
        """What each complete part of the data set holds."""
        found: list[dict[str, Any]] = []
        while (entry := read(self._part(len(found)) / "done.json")) is not None:
            found.append(entry)
        return found

    def finish(self, part: int, entry: Mapping[str, Any]) -> None:
        write(self._part(part) / "done.json", entry)

    def _part(self, part: int) -> Path:
        return self.folder / f"part-{part:03d}"


def shard_number(name: str) -> int | None:
    """Of a shard that a job wrote; a repaired one has another name."""
    word = name.removeprefix("shard-").removesuffix(".tar")
    return int(word) if word.isdecimal() else None


def read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return content


def write(path: Path, entry: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, canonical(entry))


def remove_parts(folder: Path) -> None:
    """Files that a killed job had begun."""
    for path in folder.rglob(".part-*"):
        if path.is_file():
            path.unlink(missing_ok=True)
