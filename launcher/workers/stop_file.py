"""A word to the workers of a run, wherever they are: a file of the run folder.

It is there from the start, and opened anew for every look: NFS then asks the server.
"""

from contextlib import suppress
from pathlib import Path

from hvdm.run import stopping

REQUEST = ".stop"


def clear(run: Path) -> None:
    (run / REQUEST).write_text("")


def ask(run: Path, reason: str) -> None:
    (run / REQUEST).write_text(reason)


def asked(run: Path) -> str:
    """One of the reasons, or an empty string."""
    with suppress(OSError):
        found = (run / REQUEST).read_text()
        return found if found in stopping.REASONS else ""
    return ""
