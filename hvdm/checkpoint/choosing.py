"""Which checkpoint: the newest that verifies, or the one that was asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvdm import dist
from hvdm.checkpoint import contents, places, storage
from hvdm.checkpoint.storage import Storage
from hvdm.data.store import Absent
from hvdm.errors import RunError, UserError

FORMAT = 1

Wanted = Callable[[str], bool]
"""Which files of a checkpoint are to be read."""


@dataclass(frozen=True)
class Checkpoint:
    """A committed folder and its manifest."""

    storage: Storage
    name: str
    manifest: Mapping[str, Any]

    @property
    def step(self) -> int:
        return int(self.manifest["step"])

    @property
    def nets(self) -> Mapping[str, Any]:
        return self.manifest["nets"]

    @property
    def path(self) -> Path:
        return self.storage.path(self.name)

    @property
    def where(self) -> str:
        return f"{self.storage.where}/{self.name}"

    @property
    def bytes(self) -> int:
        return sum(row["bytes"] for row in self.manifest["files"].values())

    def file(self, name: str) -> Path:
        return self.storage.fetched(self.name, self.manifest, name)


def every_file(name: str) -> bool:
    return True


def opened(place: Storage, name: str) -> Checkpoint | str:
    """A checkpoint, or why its manifest says nothing."""
    try:
        manifest = storage.parsed(place.manifest(name))
    except (OSError, Absent, ValueError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"it is missing or cut: {error}"
        return f"{place.where}/{name} has no readable manifest ({reason})"
    if manifest.get("format") != FORMAT:
        return f"{place.where}/{name}: format {manifest.get('format')}, expected {FORMAT}"
    if problem := contents.problem_of(manifest):
        return f"{place.where}/{name} has a manifest of which {problem}"
    if manifest["step"] != storage.step_of(name):
        return f"{place.where}/{name} holds the manifest of step {manifest['step']}"
    return Checkpoint(place, name, manifest)


def listed(run: Path) -> list[Checkpoint]:
    """Committed checkpoints, oldest first. A folder without a readable manifest is not one."""
    return listed_in(places.storage_of(run))


def listed_in(place: Storage) -> list[Checkpoint]:
    found = [opened(place, name) for name in place.names()]
    return list({c.step: c for c in found if isinstance(c, Checkpoint)}.values())


def damage(
    checkpoint: Checkpoint, wanted: Wanted = every_file, part: tuple[int, int] = (0, 1)
) -> str | None:
    """The first file that is not as the manifest says; `part` of how many share the work."""
    files = sorted(filter(wanted, checkpoint.manifest["files"]))
    for file in files[part[0] :: part[1]]:
        problem = checkpoint.storage.problem(checkpoint.name, checkpoint.manifest, file)
        if problem:
            return problem
    return None


def candidates(run: Path) -> list[Checkpoint | str]:
    """Newest first; in place of one whose manifest cannot be used, the reason."""
    place = places.storage_of(run)
    return [opened(place, name) for name in reversed(place.names())]


def newest_valid(
    run: Path,
    say: Callable[[str], None],
    wanted: Wanted = every_file,
    check: Callable[[Checkpoint, Wanted], str | None] = damage,
    among: Sequence[Checkpoint | str] | None = None,
) -> Checkpoint | None:
    """The newest that verifies, falling back aloud; never silently none where some are there."""
    reasons = []
    for found in candidates(run) if among is None else among:
        problem = found if isinstance(found, str) else check(found, wanted)
        if isinstance(found, Checkpoint) and problem is None:
            return found
        reasons.append(str(problem))
        say(f"checkpoint refused: {problem}; trying the one before")
    if reasons:
        raise RunError(
            f"no checkpoint of {run} is valid ({'; '.join(reasons)}): bring one back, or move "
            f"{places.storage_of(run).where} away to begin again from step 0"
        )
    return None


def choose(run: Path, step: int | None, wanted: Wanted = every_file) -> Checkpoint:
    """For reading: the given step, or the newest valid one. What is wanted of it is verified."""
    if step is None:
        found = newest_valid(run, print, wanted)
        if found is None:
            raise UserError(f"{run} has no checkpoint yet: train it first")
        return found
    chosen = of_step(run, step)
    problem = damage(chosen, wanted)
    if problem:
        raise RunError(f"{problem}; name another step, or bring the file back")
    return chosen


def of_step(run: Path, step: int) -> Checkpoint:
    found = listed(run)
    for checkpoint in found:
        if checkpoint.step == step:
            return checkpoint
    steps = ", ".join(str(c.step) for c in found) or "none"
    raise UserError(f"{run} has no checkpoint of step {step}; there are: {steps}")


def shared_damage(checkpoint: Checkpoint, wanted: Wanted = every_file) -> str | None:
    """The ranks verify a share of the files each, and all know what any of them found."""
    problem = damage(checkpoint, wanted, (dist.rank(), dist.world()))
    return next((text for text in dist.all_gather(problem) if text), None)
