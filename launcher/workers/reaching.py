"""Ray clusters on this machine and elsewhere: who answers, and which sessions are held."""

import os
import socket
from pathlib import Path

from hvdm.disk import lock

RAY_NOTE = Path("/tmp/ray/ray_current_cluster")
"""Where Ray keeps the address of the cluster it started here."""


def answers(address: str, timeout_s: float = 5.0) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
    except (OSError, ValueError):
        return False
    return True


def silent_cluster(address: str, note: Path = RAY_NOTE) -> str | None:
    """Why a running cluster cannot be joined; Ray itself would try for minutes."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "auto")
    if address == "auto":
        there = noted(note)
        if there is None or answers(there):
            return None
        return f"{unanswered(note, there)}; do `{remedy(note)}`"
    if "://" in address or answers(address):
        return None
    return f"nobody answers at {address}; start Ray there with `ray start --head`"


def noted(note: Path) -> str | None:
    try:
        return note.read_text().strip()
    except OSError:
        return None


def unanswered(note: Path, address: str) -> str:
    return f"{note} names a cluster at {address}, and nobody answers there"


def remedy(note: Path) -> str:
    return f"ray stop --force; rm {note}"


# Sessions of ours

SESSION_LOCK = "held"


def sessions(folder: Path) -> list[Path]:
    """Folders that commands of ours made for Ray."""
    return sorted(folder.glob("hvdm-ray-*"))


def is_held(session: Path) -> bool:
    """By its lock: processes of other containers have numbers that say nothing here."""
    try:
        with open(session / SESSION_LOCK, "rb") as handle:
            return not lock(handle)
    except FileNotFoundError:
        return False
    except OSError:
        return True
