"""Where shards lie: a folder, an object store or a web server, behind three reads."""

import functools
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hvdm.disk import atomic_write, sha256_of
from hvdm.errors import RunError, UserError
from hvdm.redaction import redacted

T = TypeVar("T")

PAUSES = (0.1, 0.4, 1.6, 6.4, *(15.0,) * 240)
"""Seconds before each new attempt, stretched at random by up to half."""
SHORT_S, OUTAGE_S = 3.0, 180.0
"""How long a reader tries: a command that has just begun, and a run that is on its way."""
REQUEST_S = 60.0
"""How long a store may take over one answer."""
LOOKED_AT = "manifest.json"
_jitter = random.SystemRandom()


class Unreachable(RunError):
    """One file cannot be read while its store answers: it is as good as damaged."""


class Outage(RunError):
    """The store answers nobody: no damage, and nothing that a later start could not mend."""


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


def open_store(
    location: str | Path, timeout_s: float = REQUEST_S, outage_s: float = SHORT_S
) -> Store:
    """The store of a folder such as `DIR/train`, `s3://bucket/set/train` or `https://…`."""
    if is_remote(location):
        return RemoteStore(str(location), timeout_s, outage_s)
    return LocalStore(Path(location), outage_s)


def persistent(
    action: Callable[[], T],
    what: str,
    outage_s: float,
    look: Callable[[], Any] | None = None,
    to: str = "read",
) -> T:
    """The action's result; a failing disk or network gets more chances, a missing file none.

    After `outage_s` a `look` at something else tells an outage from one file that is broken.
    """
    until = time.monotonic() + outage_s
    for pause in (*PAUSES, None):
        try:
            return action()
        except FileNotFoundError as error:
            raise Absent(f"cannot read {what}: there is no such file; restore it") from error
        except (UserError, RunError):
            raise
        except Exception as error:  # storage clients raise more kinds than they document
            if pause is None or time.monotonic() + pause > until:
                reason = str(error) or type(error).__name__
                kind = Unreachable if look and _answers(look) else Outage
                hint = "check the disk, the mount or the network"
                raise kind(f"cannot {to} {what}: {reason}; {hint}") from error
        time.sleep(pause * (1 + _jitter.random() / 2))
    raise AssertionError("the last attempt returns or raises")


def _answers(look: Callable[[], Any]) -> bool:
    try:
        look()
    except FileNotFoundError:
        return True
    except Exception:  # as above
        return False
    return True


class LocalStore:
    def __init__(self, folder: Path, outage_s: float = SHORT_S) -> None:
        self.folder, self.outage_s = folder, outage_s

    @property
    def local(self) -> Path | None:
        return self.folder

    def read(self, name: str) -> bytes:
        path = self.folder / name
        return persistent(path.read_bytes, str(path), self.outage_s, self._look)

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        path = self.folder / name
        read = functools.partial(_slice, path, offset, size)
        return persistent(read, str(path), self.outage_s, self._look)

    def _look(self) -> bytes:
        return (self.folder / LOOKED_AT).read_bytes()


def _slice(path: Path, offset: int, size: int) -> bytes:
    # A handle per read: threads share nothing, and no limit on open files is met.
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        return file.read(size)


class RemoteStore:
    """Any address that fsspec opens; its client is made on first use, in the process that reads."""

    def __init__(self, address: str, timeout_s: float, outage_s: float = SHORT_S) -> None:
        self.address, self.timeout_s, self.outage_s = address.rstrip("/"), timeout_s, outage_s
        self._lock = threading.Lock()
        self._opened: tuple[int, Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        names = ("address", "timeout_s", "outage_s")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def local(self) -> Path | None:
        return None

    def read(self, name: str) -> bytes:
        return self._persistent(name, None, None)

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        if size == 0:
            return b""
        data = self._persistent(name, offset, offset + size)
        if len(data) > size:
            what = f"{self.address}/{name}"
            raise RunError(f"{what}: the server ignores byte ranges; serve it with one that does")
        return data

    def _persistent(self, name: str, start: int | None, end: int | None) -> bytes:
        read = functools.partial(self._fetch, name, start, end)
        look = functools.partial(self._fetch, LOOKED_AT, None, None)
        return persistent(read, f"{self.address}/{name}", self.outage_s, look)

    def _fetch(self, name: str, start: int | None, end: int | None) -> bytes:
        client, root = self._client()
        return bytes(client.cat_file(f"{root}/{name}", start=start, end=end))

    def _client(self) -> tuple[Any, str]:
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), *client_of(self.address, self.timeout_s))
            return self._opened[1], self._opened[2]


def client_of(address: str, timeout_s: float) -> tuple[Any, str]:
    import fsspec

    protocol = address.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(address, **_options(protocol, timeout_s))
    except (ImportError, ValueError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{redacted(address)} cannot be opened: {line}") from None


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
        return data if sha256_of(data) == sha256 else None

    def put(self, sha256: str, data: bytes) -> None:
        path = self._path(sha256)
        if self._size + len(data) > self.limit:
            return
        try:
            path.parent.mkdir(exist_ok=True)
            atomic_write(path, data, durable=False)
        except OSError:  # a full disk must not stop the run
            return
        self._size += len(data)

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256
