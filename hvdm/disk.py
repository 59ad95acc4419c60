"""Files: there whole or not at all, held by one process at a time, known by their hash."""

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from hvdm.errors import UserError


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """A path beside `path` to write to; once it is written without an error, it is `path`.

    Its name is this writer's own: two who write one file do not share it, and it keeps the ending
    that libraries go by. What can be made again need not wait for the disk.
    """
    part = path.with_name(f".part-{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    try:
        yield part
        if durable:
            sync(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    if durable:
        sync(path.parent)


def atomic_write(path: Path, data: bytes | str, durable: bool = True) -> None:
    """The file is there whole or not at all."""
    with replacing(path, durable) as part:
        part.write_bytes(data.encode() if isinstance(data, str) else data)


def sync(path: Path) -> None:
    """Makes a file, or the renames within a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, refusal: str | None = None) -> Iterator[None]:
    """Waits for whoever holds this lock, or refuses; the kernel lets go when a process dies."""
    with open(path, "a") as handle:
        if not lock(handle, wait=refusal is None):
            raise UserError(refusal or "")
        yield


def lock(handle: IO[Any], wait: bool = False) -> bool:
    """False where another holds it; an OSError where the file system knows no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
