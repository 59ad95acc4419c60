"""A word from the command to its workers, wherever they are: a file of the run folder.

It is there from the start, and opened anew for every look: NFS then asks the server.
"""

from contextlib import suppress
from pathlib import Path

STOP = ".stop"


def clear(run: Path) -> None:
    (run / STOP).write_text("")


def ask_to_stop(run: Path) -> None:
    (run / STOP).write_text("stop")


def asked_to_stop(run: Path) -> bool:
    with suppress(OSError):
        return bool((run / STOP).read_text())
    return False
