"""Checkpoints at an address that fsspec opens.

An object store has no rename: files go under `step-…/ATTEMPT/`, and the manifest object, which is
written last and names the attempt, is the commit.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hvdm.checkpoint import faults
from hvdm.checkpoint.contents import ATTEMPT
from hvdm.checkpoint.storage import (
    LATEST,
    MANIFEST,
    Row,
    difference,
    dumped,
    hashed,
    parsed,
    step_of,
)
from hvdm.data.store import OUTAGE_S, REQUEST_S, Absent, Outage, client_of, persistent
from hvdm.disk import locked, replacing
from hvdm.errors import RunError, UserError
from hvdm.redaction import redacted

T = TypeVar("T")


class Bucket:
    """Whatever fsspec opens. What is read comes to a cache on this machine, checked on the way."""

    def __init__(self, address: str, cache: Path) -> None:
        self.where, self.cache = redacted(address).rstrip("/"), cache
        self._fs, self._root = _opened(address.rstrip("/"))
        self._swept = False

    def names(self) -> list[str]:
        found = self._persistent(self._listed, self.where)
        return sorted(path.rsplit("/", 2)[1] for path in found)

    def _listed(self) -> list[str]:
        self._fs.invalidate_cache()
        return self._fs.glob(f"{self._root}/step-*/{MANIFEST}")

    def _persistent(self, action: Callable[[], T], what: str) -> T:
        """An outage is waited for; it is no reason to go on from an older checkpoint."""
        return persistent(action, what, OUTAGE_S)

    def path(self, name: str) -> Path:
        return self.cache / name

    def manifest(self, name: str) -> bytes:
        place = f"{name}/{MANIFEST}"
        read: Callable[[], bytes] = partial(self._fs.cat_file, f"{self._root}/{place}")
        return self._persistent(read, f"{self.where}/{place}")

    def problem(self, name: str, manifest: Row, file: str) -> str | None:
        try:
            self.fetched(name, manifest, file)
        except Outage:
            raise
        except RunError as error:
            return str(error)
        return None

    def fetched(self, name: str, manifest: Row, file: str) -> Path:
        row = manifest["files"][file]
        path = self.cache / f"{row['sha256']}.safetensors"
        self.cache.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            if not path.exists():
                self._fetch(f"{name}/{manifest['attempt']}/{file}", row, path)
        return path

    def _fetch(self, name: str, row: Row, path: Path) -> None:
        what = f"{self.where}/{name}"
        with replacing(path, durable=False) as part:
            get = partial(self._fs.get_file, f"{self._root}/{name}", str(part))
            try:
                self._persistent(get, what)
            except Absent:
                raise RunError(f"{what} is missing") from None
            with open(part, "rb", buffering=0) as handle:
                problem = difference(what, row, *hashed(handle))
            if problem:
                raise RunError(problem)

    def begin(self, name: str) -> str:
        """What a killed save left is there from the start, so the bucket is listed once."""
        if not self._swept:
            self.patiently(self.sweep, name)
            self._swept = True
        return f"{name}/{time.time_ns():x}"

    def sweep(self) -> None:
        """Objects that no manifest names are of saves or removals that were killed."""
        attempts = {name: self._attempt(name) for name in self.names()}
        orphans = []
        for path in self._fs.find(self._root):
            name, _, rest = path[len(self._root) + 1 :].partition("/")
            attempt = rest.partition("/")[0]
            known = attempts.get(name, "")
            if name.startswith("step-") and "/" in rest and known not in (attempt, None):
                orphans.append(path)
        aside = {path.rsplit("/", 1)[0] for path in self._fs.glob(f"{self._root}/step-*/aside-*")}
        orphans = [path for path in orphans if path.rsplit("/", 2)[0] not in aside]
        if orphans:
            self._fs.rm(orphans)

    def _attempt(self, name: str) -> str | None:
        """None where a damaged manifest does not say whose the files are."""
        try:
            return _attempt_of(self.manifest(name))
        except (Absent, ValueError, KeyError):
            return None

    @contextmanager
    def writing(self, part: str, file: str) -> Iterator[Any]:
        handle = self._fs.open(f"{self._root}/{part}/{file}", "wb")
        try:
            yield handle
        except BaseException:
            with suppress(Exception):
                handle.discard()
            raise
        handle.close()

    def patiently(self, action: Callable[[], T], what: str) -> T:
        """An outage is waited for; what is forbidden, or has no bucket, is not asked for again."""
        return persistent(partial(_allowed, action), f"{self.where}/{what}", OUTAGE_S, to="write")

    def commit(self, part: str, name: str, manifest: Mapping[str, Any]) -> None:
        step = step_of(name)
        attempt = part.rsplit("/", 1)[1]
        faults.reach("manifest-written", step)
        place, content = f"{name}/{MANIFEST}", dumped({**manifest, "attempt": attempt})
        self.patiently(partial(self._fs.pipe_file, f"{self._root}/{place}", content), place)
        faults.reach("renamed", step)
        faults.reach("replaced", step)
        shutil.rmtree(self.cache, ignore_errors=True)

    def abandon(self, part: str) -> None:
        self._fs.invalidate_cache()
        if self._fs.exists(f"{self._root}/{part}"):
            self._fs.rm(f"{self._root}/{part}", recursive=True)

    def tell_latest(self, name: str) -> None:
        self._fs.pipe_file(f"{self._root}/{LATEST}", f"{name}\n".encode())

    def remove(self, name: str, needed: Callable[[], bool]) -> bool:
        if needed():
            return False
        attempt = _attempt_of(self.manifest(name))
        self._fs.rm_file(f"{self._root}/{name}/{MANIFEST}")
        faults.reach("trash-renamed", step_of(name))
        self.abandon(f"{name}/{attempt}")
        return True

    def set_aside(self, name: str, stamp: str) -> str:
        place = f"{name}/aside-{stamp}-{MANIFEST}"
        self._fs.copy(f"{self._root}/{name}/{MANIFEST}", f"{self._root}/{place}")
        self._fs.rm_file(f"{self._root}/{name}/{MANIFEST}")
        return f"{self.where}/{place}"


def _attempt_of(manifest: bytes) -> str:
    """It is part of a path, and a stranger may have written it."""
    attempt = str(parsed(manifest)["attempt"])
    if not ATTEMPT.fullmatch(attempt):
        raise ValueError("its attempt cannot be used")
    return attempt


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _allowed(action: Callable[[], T]) -> T:
    try:
        return action()
    except (FileNotFoundError, PermissionError) as error:
        raise RunError(_line(error)) from error


def _opened(address: str) -> tuple[Any, str]:
    try:
        fs, root = client_of(address, REQUEST_S)
    except UserError as error:
        raise UserError(f"checkpoint.path={error}") from None
    return fs, root.rstrip("/")
