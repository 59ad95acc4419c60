"""Which storage holds a run's checkpoints."""

import re
from pathlib import Path

from hvdm.checkpoint.bucket import Bucket
from hvdm.checkpoint.storage import Folder, Storage
from hvdm.disk import atomic_write
from hvdm.errors import UserError
from hvdm.redaction import redacted

POINTER = "address"
_OF_RAY = re.compile(r"/session_\d{4}-\d\d-\d\d_[\d-]+_\d+")


_given: dict[str, str] = {}
"""Addresses as this process was given them, by what is written down of them."""


def know(address: str | None) -> None:
    if address is not None:
        _given[redacted(address)] = address


def storage_of(run: Path) -> Storage:
    """`RUN/checkpoints`, or where the pointer in it says."""
    return storage_at(run, pointed(run))


def storage_at(run: Path, address: str | None) -> Storage:
    if address is None:
        return Folder(run / "checkpoints")
    if "://" in address:
        return Bucket(_given.get(address, address), run / ".fetched")
    return Folder(Path(address))


def pause_s(address: str | None) -> float:
    """Between two looks for new checkpoints: a bucket is asked each time."""
    return 15.0 if address and "://" in address else 1.0


def pointed(run: Path) -> str | None:
    pointer = run / "checkpoints" / POINTER
    try:
        return pointer.read_text("utf-8").strip() if pointer.is_file() else None
    except ValueError:
        raise UserError(f"{pointer} is no address of checkpoints; bring it back") from None


def move_checkpoints(run: Path, address: str | None) -> None:
    """Keeps checkpoints elsewhere from now on; never away from some that are there."""
    before = pointed(run)
    if address and "://" not in address and _OF_RAY.search(str(Path(address).absolute())):
        raise UserError(
            f"checkpoint.path={address} lies in Ray's folder for this session, and would be gone "
            "with it: give a whole path"
        )
    know(address)
    address = address and redacted(address)
    if before == address:
        return
    old, new = storage_at(run, before), storage_at(run, address)
    if old.names() and not new.names():
        raise UserError(
            f"{run} has its checkpoints in {old.where}, and {new.where} has none: copy them there, "
            f"or set checkpoint.path={before or 'null'}"
        )
    pointer = run / "checkpoints" / POINTER
    if address is None:
        pointer.unlink()
        return
    pointer.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(pointer, f"{address}\n")
