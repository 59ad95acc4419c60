"""The wall time of a whole run by column, from the events that its attempts left behind.

compute     steps that count, as they went into a checkpoint or are still held by a live run
data        the slowest rank waited for rows
checkpoint  training stood still for a save
restart     from a command, or from a loss, to the first step; and what was done and lost
idle        between two commands, and what belongs to nothing else
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from hvdm.run import stopping

COLUMNS = ("compute", "data", "checkpoint", "restart", "idle")
STARTS = ("started", "resumed")
ENDS = ("finished", "stopped", "failed")
Line = Mapping[str, Any]


@dataclass(eq=False)
class Attempt:
    """One life of the worker group; `accounts` are (step, what was spent up to it)."""

    first_step: int
    accounts: list[tuple[int, Line]] = field(default_factory=list)


@dataclass
class Launch:
    """One command."""

    began: float
    seen: float
    attempts: list[Attempt] = field(default_factory=list)
    ended: bool = False


def ledger(events: Iterable[Line], metrics: Iterable[Line] = ()) -> dict[str, Any] | None:
    """Shares are of the wall time from first to last sign; None where nothing was accounted for."""
    told = [event for event in events if "time" in event]
    lines = sorted((*told, *_that_count(told, metrics)), key=_time)
    launches = _launches(_without_refused(lines))
    while launches and not launches[-1].attempts:
        launches.pop()  # a command that found the run finished
    if not any(attempt.accounts for launch in launches for attempt in launch.attempts):
        return None
    seconds = _columns(launches)
    wall = launches[-1].seen - launches[0].began
    return {
        "wall_s": round(wall, 3),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "shares": {name: _share(value, wall) for name, value in seconds.items()},
        "goodput": _share(seconds["compute"], wall),
        "launches": len(launches),
        "attempts": sum(len(launch.attempts) for launch in launches),
        "lost_steps": sum(line.get("lost_steps", 0) for line in lines if _is(line, *STARTS)),
        "recoveries": [
            {"step": line["step"], "seconds": line["seconds"]}
            for line in lines
            if _is(line, "recovered")
        ],
    }


def _that_count(events: Sequence[Line], metrics: Iterable[Line]) -> list[Line]:
    """Of each attempt its last line, and the last of steps that no later one did again."""
    starts = sorted((event for event in events if _is(event, *STARTS)), key=_time)
    began = [_time(start) for start in starts]
    again = list(accumulate((start["step"] for start in reversed(starts)), min, initial=math.inf))
    bounds = [math.inf, *again[-2::-1]]
    last: dict[int, Line] = {}
    counted: dict[int, Line] = {}
    for line in metrics:
        if "time" not in line:
            continue
        attempt = bisect_right(began, _time(line))
        last[attempt] = line
        if line.get("step", 0) <= bounds[attempt]:
            counted[attempt] = line
    kept = {id(line): line for line in (*last.values(), *counted.values())}
    return list(kept.values())


def _time(line: Line) -> float:
    return float(line["time"])


def _is(line: Line, *names: str) -> bool:
    return line.get("event") in names


def _share(seconds: float, wall: float) -> float:
    return round(seconds / wall, 4) if wall > 0 else 0.0


def _without_refused(lines: Sequence[Line]) -> list[Line]:
    """Commands that failed before they trained; another one may have gone on meanwhile."""
    kept: list[Line] = []
    refused: Line | None = None
    for line in lines:
        if refused is not None and _is(line, "failed"):
            kept.remove(refused)
            refused = None
            continue
        if _is(line, "launched", *STARTS):
            refused = line if _is(line, "launched") else None
        kept.append(line)
    return kept


def _launches(lines: Sequence[Line]) -> list[Launch]:
    """Runs that nothing launched, as under torchrun, begin with their first attempt."""
    found: list[Launch] = []
    for line in lines:
        new = _is(line, "launched") or (_is(line, *STARTS) and (not found or found[-1].ended))
        if new:
            found.append(Launch(line["time"], line["time"]))
        if not found:
            continue
        launch = found[-1]
        if launch.ended and not _is(line, "lost"):  # after which Ray starts the group again
            continue
        launch.seen = line["time"]
        launch.ended = _is(line, *ENDS) and line.get("reason") != stopping.RESIZED
        if _is(line, *STARTS):
            launch.attempts.append(Attempt(line["step"]))
        elif launch.attempts and "spent" in line:
            launch.attempts[-1].accounts.append((line["step"], line["spent"]))
    return found


def _columns(launches: Sequence[Launch]) -> dict[str, float]:
    total = dict.fromkeys(COLUMNS, 0.0)
    later = [attempt for launch in launches for attempt in launch.attempts]
    for launch, after in zip(launches, [*launches[1:], None]):
        at = launch.began
        for attempt in launch.attempts:
            later.remove(attempt)
            spent = _kept(attempt, later)
            if spent is not None:
                total["restart"] += max(0.0, spent["from"] - at)
                at = spent["to"]
                for column in ("compute", "data", "checkpoint", "idle"):
                    total[column] += spent[column]
        total["restart"] += max(0.0, launch.seen - at)
        if after is not None:
            total["idle"] += after.began - launch.seen
    return total


def _kept(attempt: Attempt, later: Sequence[Attempt]) -> Line | None:
    """The last account of steps that no later attempt had to do again."""
    bound = min((other.first_step for other in later), default=math.inf)
    held = [spent for step, spent in attempt.accounts if step <= bound]
    return max(held, key=lambda spent: spent["to"], default=None)


def told(found: Mapping[str, Any]) -> str:
    """One line of it."""
    columns = ", ".join(f"{name} {share:.1%}" for name, share in found["shares"].items())
    lost = f", {found['lost_steps']} steps done again" if found["lost_steps"] else ""
    again = [row["seconds"] for row in found["recoveries"]]
    recovered = f", recovered in {', '.join(f'{s:.1f} s' for s in again)}" if again else ""
    return (
        f"goodput {found['goodput']:.1%} of {found['wall_s']:.0f} s wall time: "
        f"{columns}{lost}{recovered}"
    )
