"""A child process for work that may never come back: limits of time and memory, and a kill.

A damaged video can make a native decoder crash, grow or loop for ever, where no exception and no
thread helps. The child is started once and serves calls until one of them fails that way.
"""

import atexit
import ctypes
import multiprocessing
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from hvdm.errors import RunError, UserError

T = TypeVar("T")
LIMIT_S = 600.0
"""Seconds that reading one sample may take."""
PR_SET_PDEATHSIG = 1
MEMORY = 4 << 30
"""Bytes that a child may take beside what Python and its libraries need."""


class Failed(RunError):
    """The child refused, crashed or took too long; the message is the reason."""


class Child:
    """Calls functions of other modules, by name, in a process of its own."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def call(self, function: Callable[..., T], *arguments: Any, limit_s: float) -> T:
        pipe = self._ready()
        try:
            pipe.send((function, arguments))
            if not pipe.poll(limit_s):
                self.close()
                raise Failed(f"took longer than {limit_s:g} s and was stopped")
            fine, value = pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            raise Failed(f"crashed the decoder ({self._how_it_ended()})") from None
        if not fine:
            raise value
        return value

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def _ready(self) -> Connection:
        if self._pipe is None or self._process is None or self._process.poll() is not None:
            self.close()
            self._pipe = self._start()
        return self._pipe

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        path = os.pathsep.join(entry for entry in [str(Path.cwd()), *sys.path] if entry)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hvdm.data.child", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            )
        return Connection(ours.detach())

    def _how_it_ended(self) -> str:
        code = self._process.wait(10) if self._process else 0
        self.close()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class _Own(threading.local):
    """A child dies with the thread that started it, so each thread has its own."""

    def __init__(self) -> None:
        self.child = Child()


_own = _Own()
atexit.register(lambda: _own.child.close())


def call(function: Callable[..., T], *arguments: Any, limit_s: float | None = None) -> T:
    """In this thread's child, which is started on the first call."""
    return _own.child.call(function, *arguments, limit_s=limit_s or LIMIT_S)


def end_with_parent() -> None:
    """This process is killed with its parent, even from within a decoder that loops."""
    end_with_starter()
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:
        os._exit(1)  # it was killed before this was asked for


def end_with_starter() -> None:
    """With the thread that forked it, which for a fork server's is not who asked for it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _serve(pipe: Connection) -> None:
    end_with_parent()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = (True, function(*arguments))
        except (UserError, RunError) as error:
            answer = (False, error)
        except MemoryError:
            answer = (False, Failed(f"takes more than {MEMORY >> 30} GiB of memory"))
        except Exception as error:
            line = " ".join(str(error).split())
            answer = (False, Failed(f"{type(error).__name__}: {line}"))
        pipe.send(answer)


if __name__ == "__main__":
    from hvdm.data import child  # by its own name, or its errors could not travel

    child._serve(Connection(int(sys.argv[1])))
