"""Where checkpoints lie: what a storage does, and the one that is a folder.

Files are written into `.part-…`, and the rename to `step-…` is the commit.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from hvdm.checkpoint import faults
from hvdm.data.schema import from_json
from hvdm.disk import atomic_write, sync

MANIFEST = "manifest.json"
LATEST = "latest"
PART, TRASH, NEW = ".part-", ".trash-", "+"
_CHUNK = 2**20

T = TypeVar("T")
Row = Mapping[str, Any]
"""A file's bytes and sha256."""


class Storage(Protocol):
    where: str

    def names(self) -> list[str]:
        """What was committed, oldest first, whether it is whole or not."""
        ...

    def manifest(self, name: str) -> bytes: ...

    def path(self, name: str) -> Path: ...

    def problem(self, name: str, manifest: Row, file: str) -> str | None:
        """How a file differs from its row of the manifest."""
        ...

    def fetched(self, name: str, manifest: Row, file: str) -> Path:
        """The file on a disk of this machine."""
        ...

    def begin(self, name: str) -> str:
        """Clears what killed saves left; gives the place of the new files."""
        ...

    def writing(self, part: str, file: str) -> Any:
        """A block with a handle to write to; the bytes are durable when it ends."""
        ...

    def patiently(self, action: Callable[[], T], what: str) -> T:
        """Writes again what an outage of the store undid."""
        ...

    def commit(self, part: str, name: str, manifest: Mapping[str, Any]) -> None: ...

    def abandon(self, part: str) -> None: ...

    def tell_latest(self, name: str) -> None:
        """A convenience for people; nothing reads it."""
        ...

    def remove(self, name: str, needed: Callable[[], bool]) -> bool:
        """Unlists it, then frees its bytes, unless it is needed all the same."""
        ...

    def sweep(self) -> None:
        """Frees what a killed removal left."""
        ...

    def set_aside(self, name: str, stamp: str) -> str:
        """Unlists it and keeps its bytes; gives where they are now."""
        ...


def step_of(name: str) -> int:
    digits = name.removeprefix("step-").removesuffix(NEW)
    return int(digits) if digits.isdigit() else -1


def dumped(manifest: Mapping[str, Any]) -> bytes:
    """With a sha256 over itself, so that damage to the manifest is seen too."""
    body = {k: v for k, v in manifest.items() if k != "sha256"}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1).encode()


def parsed(content: bytes) -> dict[str, Any]:
    found = from_json(content)
    if not isinstance(found, dict) or "files" not in found:
        raise ValueError("it is no manifest")
    if "sha256" in found and json.loads(dumped(found))["sha256"] != found["sha256"]:
        raise ValueError("its sha256 is not that of its content")
    return found


def hashed(handle: Any) -> tuple[int, str]:
    """Bytes and sha256 of what can still be read from a handle."""
    digest, size = hashlib.sha256(), 0
    buffer = memoryview(bytearray(_CHUNK))
    while count := handle.readinto(buffer):
        digest.update(buffer[:count])
        size += count
    return size, digest.hexdigest()


def difference(what: str, row: Row, size: int, digest: str | None) -> str | None:
    if size != row["bytes"]:
        return f"{what} has {size} bytes, expected {row['bytes']}"
    if digest is not None and digest != row["sha256"]:
        return f"{what} is damaged: its sha256 is not the manifest's"
    return None


class Folder:
    def __init__(self, root: Path) -> None:
        self.root, self.where = root, str(root)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.root.glob("step-*"))

    def path(self, name: str) -> Path:
        return self.root / name

    def manifest(self, name: str) -> bytes:
        return (self.root / name / MANIFEST).read_bytes()

    def problem(self, name: str, manifest: Row, file: str) -> str | None:
        path, row = self.root / name / file, manifest["files"][file]
        try:
            quick = difference(str(path), row, path.stat().st_size, None)
            if quick:
                return quick
            with open(path, "rb", buffering=0) as handle:
                return difference(str(path), row, *hashed(handle))
        except FileNotFoundError:
            return f"{path} is missing"
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}"

    def fetched(self, name: str, manifest: Row, file: str) -> Path:
        return self.root / name / file

    def begin(self, name: str) -> str:
        self._settle()
        self.sweep()
        for stale in self.root.glob(f"{PART}step-*"):
            shutil.rmtree(stale)
        part = f"{PART}{name}"
        (self.root / part).mkdir(parents=True)
        return part

    def _settle(self) -> None:
        """Finishes what a kill left of `_replace`."""
        for newer in self.root.glob(f"step-*{NEW}"):
            self._replace(newer.name.removesuffix(NEW))

    @contextmanager
    def writing(self, part: str, file: str) -> Iterator[BinaryIO]:
        with open(self.root / part / file, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())

    def patiently(self, action: Callable[[], T], what: str) -> T:
        """A full disk does not mend itself: the save is abandoned, and training goes on."""
        return action()

    def commit(self, part: str, name: str, manifest: Mapping[str, Any]) -> None:
        step = step_of(name)
        with self.writing(part, MANIFEST) as handle:
            handle.write(dumped(manifest))
        sync(self.root / part)
        faults.reach("manifest-written", step)
        there = (self.root / name).exists()
        (self.root / part).rename(self.root / (name + NEW if there else name))
        faults.reach("renamed", step)
        if there:
            self._replace(name)
        sync(self.root)

    def _replace(self, name: str) -> None:
        """At every moment the old or the new one is listed."""
        if (self.root / name).exists():
            trash = self.root / f"{TRASH}{name}"
            shutil.rmtree(trash, ignore_errors=True)
            (self.root / name).rename(trash)
            faults.reach("replaced", step_of(name))
            shutil.rmtree(trash, ignore_errors=True)
        (self.root / (name + NEW)).rename(self.root / name)

    def abandon(self, part: str) -> None:
        shutil.rmtree(self.root / part, ignore_errors=True)

    def tell_latest(self, name: str) -> None:
        atomic_write(self.root / LATEST, f"{name}\n")

    def remove(self, name: str, needed: Callable[[], bool]) -> bool:
        trash = self.root / f"{TRASH}{name}"
        try:
            (self.root / name).rename(trash)
        except FileNotFoundError:
            return False
        faults.reach("trash-renamed", step_of(name))
        if needed():
            trash.rename(self.root / name)
            return False
        shutil.rmtree(trash, ignore_errors=True)
        return True

    def sweep(self) -> None:
        for trash in self.root.glob(f"{TRASH}*"):
            shutil.rmtree(trash, ignore_errors=True)

    def set_aside(self, name: str, stamp: str) -> str:
        place = self.root / f"aside-{stamp}-{name}"
        (self.root / name).rename(place)
        sync(self.root)
        return str(place)
