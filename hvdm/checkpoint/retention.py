"""Which checkpoints may go: none that is new, pinned, leased, or the newest that is verified."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hvdm.checkpoint import leases, storage
from hvdm.checkpoint.choosing import Checkpoint, damage, listed_in
from hvdm.checkpoint.storage import Storage
from hvdm.errors import UserError


@dataclass(frozen=True)
class Rule:
    """The last `keep`, the first after every `keep_every` samples, and steps that are named."""

    keep: int
    keep_every: int | None = None
    pinned: tuple[int, ...] = ()

    def check(self) -> None:
        if self.keep < 1:
            raise UserError(f"keep={self.keep} would remove every checkpoint; keep=1 is the least")
        if self.keep_every is not None and self.keep_every < 1:
            raise UserError(f"keep_every={self.keep_every} is below 1 sample")


def kept_by(rule: Rule, found: Sequence[Checkpoint]) -> set[int]:
    """The steps that the rule alone keeps."""
    kept = {c.step for c in found[-rule.keep :]} | set(rule.pinned)
    if rule.keep_every:
        seen: set[int] = set()
        for checkpoint in found:
            draw = int(checkpoint.manifest.get("cursor", {}).get("draw", 0))
            era = draw // rule.keep_every
            if era and era not in seen:
                seen.add(era)
                kept.add(checkpoint.step)
    return kept


def leased(run: Path) -> set[int]:
    """Steps that a reader holds: RUN/leases/*.json, each until its time; a best one for good."""
    return set(leases.current(run).values())


def newest_verified(
    found: Iterable[Checkpoint], known: Collection[str | None] = ()
) -> Checkpoint | None:
    """What this process wrote or verified itself is known by its hash; others are read."""
    for checkpoint in reversed(list(found)):
        sizes_only = checkpoint.manifest.get("sha256") in known
        if (_sizes_differ(checkpoint) if sizes_only else damage(checkpoint)) is None:
            return checkpoint
    return None


def _sizes_differ(checkpoint: Checkpoint) -> str | None:
    """Of what lies on a disk here; an object store is believed."""
    if not isinstance(checkpoint.storage, storage.Folder):
        return None
    for name, row in checkpoint.manifest["files"].items():
        path = checkpoint.path / name
        if not path.is_file() or path.stat().st_size != row["bytes"]:
            return f"{path} is missing or cut"
    return None


def removable(
    run: Path, place: Storage, rule: Rule, known: Collection[str | None] = ()
) -> tuple[list[Checkpoint], Checkpoint | None]:
    """What may go, and the newest verified one. Nothing may go where none verifies."""
    found = listed_in(place)
    kept = kept_by(rule, found) | leased(run)
    old = [c for c in found if c.step not in kept]
    if not old:
        return [], None
    anchor = newest_verified(found, known)
    if anchor is None:
        return [], None
    return [c for c in old if c.step != anchor.step], anchor


def prune(
    run: Path,
    place: Storage,
    rule: Rule,
    known: Collection[str | None] = (),
    told: Callable[[Checkpoint], None] = lambda checkpoint: None,
) -> list[int]:
    """Removes what may go; gives the steps that went."""
    gone = []
    for old in removable(run, place, rule, known)[0]:
        if place.remove(old.name, lambda step=old.step: step in leased(run)):  # type: ignore[misc]
            told(old)
            gone.append(old.step)
    return gone
