"""Where shards lie: a folder, an object store or a web server, behind three reads."""

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hvdm.errors import RunError, UserError

T = TypeVar("T")

PAUSES = (0.1, 0.4, 1.6)
"""Seconds before each new attempt, stretched at random by up to half."""
_jitter = random.SystemRandom()


class Unreachable(RunError):
    """Reading failed, and failed again: the storage is at fault, not the data."""


class Absent(RunError):
    """There is no such file."""


class Store(Protocol):
    """The files of one folder, by name."""

    @property
    def local(self) -> Path | None: ...

    def read(self, name: str) -> bytes: ...

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """At most `size` bytes; fewer where the file ends."""
        ...


def is_remote(location: str | Path) -> bool:
    return "://" in str(location)


def join(location: str | Path, name: str) -> str:
    """`name` under a folder or an address."""
    text = str(location)
    return f"{text.rstrip('/')}/{name}" if is_remote(text) else str(Path(text) / name)


def open_store(location: str | Path, timeout_s: float = 60.0) -> Store:
    """The store of a folder such as `DIR/train`, `s3://bucket/set/train` or `https://…`."""
    if is_remote(location):
        return RemoteStore(str(location), timeout_s)
    return LocalStore(Path(location))


def persistent(action: Callable[[], T], what: str) -> T:
    """The action's result; a failing disk or network gets another chance, a missing file none."""
    for pause in (*PAUSES, None):
        try:
            return action()
        except FileNotFoundError as error:
            raise Absent(f"cannot read {what}: there is no such file; restore it") from error
        except UserError:
            raise
        except Exception as error:  # storage clients raise more kinds than they document
            if pause is None:
                reason = str(error) or type(error).__name__
                hint = "check the disk, the mount or the network"
                raise Unreachable(f"cannot read {what}: {reason}; {hint}") from error
        time.sleep(pause * (1 + _jitter.random() / 2))
    raise AssertionError("the last attempt returns or raises")


class LocalStore:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def local(self) -> Path | None:
        return self.folder

    def read(self, name: str) -> bytes:
        path = self.folder / name
        return persistent(path.read_bytes, str(path))

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        path = self.folder / name
        return persistent(lambda: _slice(path, offset, size), str(path))


def _slice(path: Path, offset: int, size: int) -> bytes:
    # A handle per read: threads share nothing, and no limit on open files is met.
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        return file.read(size)


class RemoteStore:
    """Any address that fsspec opens; its client is made on first use, in the process that reads."""

    def __init__(self, address: str, timeout_s: float) -> None:
        self.address, self.timeout_s = address.rstrip("/"), timeout_s
        self._lock = threading.Lock()
        self._opened: tuple[int, Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"address": self.address, "timeout_s": self.timeout_s}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def local(self) -> Path | None:
        return None

    def read(self, name: str) -> bytes:
        return persistent(lambda: self._fetch(name, None, None), f"{self.address}/{name}")

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        if size == 0:
            return b""
        what = f"{self.address}/{name}"
        data = persistent(lambda: self._fetch(name, offset, offset + size), what)
        if len(data) > size:
            raise RunError(f"{what}: the server ignores byte ranges; serve it with one that does")
        return data

    def _fetch(self, name: str, start: int | None, end: int | None) -> bytes:
        client, root = self._client()
        return bytes(client.cat_file(f"{root}/{name}", start=start, end=end))

    def _client(self) -> tuple[Any, str]:
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), *_client_of(self.address, self.timeout_s))
            return self._opened[1], self._opened[2]


def _client_of(address: str, timeout_s: float) -> tuple[Any, str]:
    import fsspec

    protocol = address.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(address, **_options(protocol, timeout_s))
    except (ImportError, ValueError) as error:
        line = str(error).splitlines()[0]
        raise UserError(f"{address} cannot be opened: {line}") from None


def _options(protocol: str, timeout_s: float) -> dict[str, Any]:
    """Every request ends; the attempts are counted here, so the clients make only one."""
    if protocol in ("http", "https"):
        import aiohttp

        return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=timeout_s)}}
    if protocol in ("s3", "s3a"):
        once = {"max_attempts": 1}
        limits = {"connect_timeout": timeout_s, "read_timeout": timeout_s, "retries": once}
        return {"config_kwargs": limits}
    return {}


class Cache:
    """Byte ranges under the sha256 of their content: shared by all that read the same data.

    It stops taking when it is full. Epochs read in a cycle, and there a cache that makes room for
    the newest has thrown away each sample just before it comes again.
    """

    def __init__(self, folder: str | Path, limit_bytes: int) -> None:
        self.folder, self.limit = Path(folder), limit_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        self._size = sum(path.stat().st_size for path in self.folder.glob("??/*"))

    def get(self, sha256: str) -> bytes | None:
        """What was kept, if it is still what it was."""
        try:
            data = self._path(sha256).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == sha256 else None

    def put(self, sha256: str, data: bytes) -> None:
        path = self._path(sha256)
        if self._size + len(data) > self.limit:
            return
        part = path.with_name(f".part-{os.getpid()}-{threading.get_ident()}-{path.name}")
        try:
            path.parent.mkdir(exist_ok=True)
            part.write_bytes(data)
            part.replace(path)
        except OSError:  # a full disk must not stop the run
            part.unlink(missing_ok=True)
            return
        self._size += len(data)

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256
