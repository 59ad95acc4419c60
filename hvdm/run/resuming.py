"""Which checkpoint a run goes on from, and what may have changed since."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from hvdm import dist
from hvdm.checkpoint import places, storage
from hvdm.checkpoint.choosing import Checkpoint, candidates, newest_valid, of_step, shared_damage
from hvdm.checkpoint.reading import check_fits, restore
from hvdm.checkpoint.writing import head
from hvdm.config import Resume, flat, renewed
from hvdm.errors import RunError, UserError
from hvdm.train.loop import Session

T = TypeVar("T")
REQUEST = ".resume"
Say = Callable[[str], None]


def leave_request(run: Path, resume: Resume) -> Resume:
    """For workers that Ray may start again: what is asked for holds for the first start only.

    Gives what every start may do.
    """
    forget_request(run)
    if resume in ("auto", "must"):
        return resume
    (run / REQUEST).write_text(resume)
    return Resume("auto")


def forget_request(run: Path) -> None:
    (run / REQUEST).unlink(missing_ok=True)


def _asked(run: Path, resume: str) -> str:
    path = run / REQUEST
    return path.read_text() if path.is_file() else resume


def resume(session: Session, run: Path, identity: Mapping[str, Any], say: Say) -> Checkpoint | None:
    """Chooses the same checkpoint on all ranks, checks it, loads it; None begins at step 0."""
    config = session.config
    asked = from_main(lambda: _asked(run, config.resume))
    if not dist.is_main():
        say = _silent
    found = _chosen(run, asked, say)
    if found is not None:
        then = renewed(found.manifest.get("identity", {}))
        same_run(run, found.step, then, identity, config.may_change, say)
        check_fits(found, head(0, session.engines, session.averages, {}))
        for name, engine in session.engines.items():
            restore(found, name, engine, session.averages.get(name))
    _leave_behind(run, asked, found, say)
    return found


def from_main(action: Callable[[], T]) -> T:
    """The first rank's answer on all ranks, or its error."""
    answer: Any = None
    if dist.is_main():
        try:
            answer = (action(), None)
        except Exception as error:
            answer = (None, error)
    value, problem = dist.broadcast(answer)
    if problem is not None:
        raise problem
    return cast(T, value)


def _silent(text: str) -> None:
    return None


def _chosen(run: Path, asked: str, say: Say) -> Checkpoint | None:
    if asked == "never":
        return None
    if asked.isdigit():
        found = from_main(lambda: of_step(run, int(asked)))
        problem = shared_damage(found)
        if problem:
            raise RunError(f"resume={asked}: {problem}; name another step, or use resume=auto")
        return found
    among = from_main(lambda: candidates(run))
    chosen = newest_valid(run, say, check=shared_damage, among=among)
    if chosen is None and asked == "must":
        raise UserError(f"resume=must: {run} has no checkpoint; use resume=auto to begin a new run")
    return chosen


def _leave_behind(run: Path, asked: str, found: Checkpoint | None, say: Say) -> None:
    """Later checkpoints of the way that is left are set aside, never removed."""
    if asked == "never" or asked.isdigit():
        from_main(lambda: _set_aside(run, asked, found.step if found else -1, say))


def _set_aside(run: Path, asked: str, after: int, say: Say) -> None:
    place, stamp = places.storage_of(run), time.strftime("%Y%m%d-%H%M%S")
    for name in place.names():
        if storage.step_of(name) > after:
            there = place.set_aside(name, stamp)
            say(f"resume={asked}: step {storage.step_of(name)} is set aside as {there}")
    forget_request(run)


# What may differ


def same_run(
    run: Path,
    step: int,
    then: Mapping[str, Any],
    now: Mapping[str, Any],
    may_change: tuple[str, ...],
    say: Say,
) -> None:
    old, new = dict(flat(then)), dict(flat(now))
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    for key in changed:
        say(f"{key} was {old.get(key)!r} at step {step}, is now {new.get(key)!r}")
    refused = [key for key in changed if not any(_under(key, name) for name in may_change)]
    if refused:
        key, *more = refused
        others = f" (and {len(more)} more: {', '.join(more[:3])})" if more else ""
        raise UserError(
            f"{run} has checkpoints of another run: {key} was {old.get(key)!r}, is now "
            f"{new.get(key)!r}{others}; set it back, allow it with may_change=[{key}], or use "
            "run=DIR for a new run"
        )


def _under(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")
