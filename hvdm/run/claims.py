"""One job at a time trains a run folder: a lock of the kernel, and a note for where locks fail.

Some file systems have no flock, or keep it to one machine (NFS, Lustre, FUSE). So whoever holds a
lock also says so in a note beside it, again and again; one who comes from another machine, or gets
no lock, believes the note until it has stood still for a while.
"""

import json
import os
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from hvdm import disk
from hvdm.errors import UserError
from hvdm.progress import repeating

PATIENCE_S = 20.0
"""Workers of a job that was just killed may still be dying."""
BEAT_S = 4.0
SILENT_S = 16.0
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Taken(UserError):
    """Somebody else trains the run folder; under Ray it may be a group that was cut off."""


class Claim:
    """What was taken; `hold` says whether it still is."""

    def __init__(self, lock: Path) -> None:
        self._note, self._run, self._beats = lock.with_name(f"{lock.name}.json"), lock.parent, 0
        self._own = {"id": uuid.uuid4().hex, "host": _host()}
        self._own |= {"node": platform.node(), "pid": str(os.getpid())}
        self._lost = ""

    def hold(self) -> str:
        """A reason to stop that is none, as long as nobody took over."""
        if self._lost:
            raise Taken(f"{self._run} was taken over{self._lost}, this process was cut off")
        return ""

    def say(self) -> None:
        """Written in place: NFS shows a new text sooner than a new file."""
        there = self._read() or {}
        if self._beats and there.get("id", self._own["id"]) != self._own["id"]:
            self._lost = _who(there)
        if not self._lost:
            self._beats += 1
            with suppress(OSError):  # the lock alone has to do then
                text = json.dumps({**self._own, "beats": self._beats}).encode()
                with open(os.open(self._note, os.O_WRONLY | os.O_CREAT, 0o644), "wb") as note:
                    note.write(text)  # never cut first: a reader would find nothing
                    note.truncate()

    def withdraw(self) -> None:
        if not self._lost:
            self._note.unlink(missing_ok=True)

    def enter(self, locked: bool, until: float) -> None:
        """Takes what is free; of others' notes, one that a lock proves dead or that is silent."""
        there = self._read()
        proven = there is None or (locked and there.get("host") == self._own["host"])
        if not proven:
            self._wait_for_silence(there, until)
        self.say()
        if not locked or not proven:
            time.sleep(BEAT_S / 4)
            if (self._read() or {}).get("id") != self._own["id"]:
                raise self.refusal()

    def _wait_for_silence(self, seen: dict[str, Any] | None, until: float) -> None:
        since = time.monotonic()
        while seen is not None and time.monotonic() - since < SILENT_S:
            time.sleep(BEAT_S / 4)
            now = self._read()
            if now != seen:
                seen, since = now, time.monotonic()
                if seen is not None and since > until:
                    raise self.refusal()

    def refusal(self) -> Taken:
        who = f"another process{_who(self._read() or {})}"
        return Taken(f"{self._run} is being trained by {who}; wait for it or stop it")

    def _read(self) -> dict[str, Any] | None:
        """None where there is no note; one that cannot be read is somebody's all the same."""
        try:
            found = json.loads(self._note.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _host() -> str:
    """The kernel: processes under one see each other's locks, in containers too."""
    return _BOOT.read_text().strip() if _BOOT.is_file() else platform.node()


def _who(note: dict[str, Any]) -> str:
    return f" (process {note['pid']} on {note['node']})" if {"pid", "node"} <= note.keys() else ""


@contextmanager
def claim(lock: Path) -> Iterator[Claim]:
    """Waits a little, then refuses; the kernel lets go when the process dies."""
    found, until = Claim(lock), time.monotonic() + PATIENCE_S
    with open(lock, "a") as handle:
        found.enter(_lock(handle, found, until), until)
        with repeating(found.say, BEAT_S):
            try:
                yield found
            finally:
                found.withdraw()


def _lock(handle: IO[str], claim: Claim, until: float) -> bool:
    """False where the file system knows no locks."""
    while True:
        try:
            if disk.lock(handle):
                return True
        except OSError:
            return False
        if time.monotonic() > until:
            raise claim.refusal()
        time.sleep(0.2)
