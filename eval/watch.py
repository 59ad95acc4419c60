"""Follows a run: evaluates every checkpoint that is committed, once, whatever restarts when."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval import history
from eval.clips.subject import forget
from eval.evaluate import Run, evaluate_all
from eval.plans import Say
from eval.protocol.protocol import find
from eval.protocol.request import Request
from hvdm import opening
from hvdm.checkpoint import checkpoint, leases
from hvdm.disk import atomic_write
from hvdm.errors import RunError, UserError
from hvdm.events import read_lines

Pause = Callable[[float], Any]
BEST = "best.json"


def watch(
    requests: Sequence[Request],
    run: Run = map,
    say: Say = print,
    poll_s: float = 10.0,
    pause: Pause = time.sleep,
) -> list[dict[str, Any]]:
    """Until the run is finished and all of its checkpoints are evaluated.

    One request for each kind of weights. Nothing here can hurt training: it reads committed
    checkpoints, and writes results and leases.
    """
    folder = _folder(requests)
    done: dict[int, list[dict[str, Any]]] = {}
    failed: set[int] = set()
    while True:
        finished = is_finished(folder)
        pending = [step for step in committed(folder) if step not in done and step not in failed]
        with ExitStack() as stack:
            # all of them at once: retention must not take the second while the first is measured
            for step in pending:
                stack.enter_context(leases.held(folder, step))
            for step in pending:
                found = _evaluated(requests, folder, step, run, say)
                if found is None:
                    failed.add(step)
                else:
                    done[step] = found
                    record_best(folder, requests)
        if finished and not pending:
            return [result for results in done.values() for result in results]
        if not pending:
            pause(poll_s)


def _folder(requests: Sequence[Request]) -> Path:
    reference = requests[0].run
    if reference is None:
        raise UserError("watch=true follows a run: give run=RUN")
    folder, step = opening.split_reference(reference)
    if step is not None:
        raise UserError(f"run={reference}: watch=true takes every step; leave @{step} out")
    return folder


def committed(run: Path) -> list[int]:
    """Steps of the checkpoints that are whole; those being written or removed are not listed."""
    return sorted(found.step for found in checkpoint.listed(run))


def is_finished(run: Path) -> bool:
    """Whether training has reached its end; asked before the checkpoints are listed."""
    events = [row for row in read_lines(run / "events.jsonl") if row.get("event") in
              ("started", "resumed", "finished")]  # fmt: skip
    return bool(events) and events[-1]["event"] == "finished"


def _evaluated(
    requests: Iterable[Request], folder: Path, step: int, run: Run, say: Say
) -> list[dict[str, Any]] | None:
    """The results of one step; None where it cannot be evaluated, and why is said."""
    found: list[dict[str, Any]] = []
    try:
        for request in requests:
            found += evaluate_all(replace(request, run=f"{folder}@{step}"), run, say)
    except RunError as error:
        say(f"step {step} of {folder} was not evaluated: {error}")
        return None
    except UserError:
        if step in committed(folder):
            raise
        say(f"step {step} of {folder} was removed before it could be evaluated")
        return None
    finally:
        forget()
    return found


def record_best(folder: Path, requests: Sequence[Request]) -> None:
    """evaluations/best.json, and a lease that lasts, so that retention keeps the best step."""
    results = [r for r in history.results_in(folder / "evaluations") if r.get("step") is not None]
    chosen = {}
    for name in requests[0].protocol.split(","):
        protocol = find(name)
        row = history.best(results, protocol.full_name, protocol.metric)
        if row is None:
            continue
        chosen[protocol.full_name] = row
        why = f"best {row['metric']} of {protocol.full_name}: {row['value']:.6g}"
        name = f"best-{protocol.full_name}"
        leases.take(folder, name, row["step"], leases.FOR_GOOD, why=why)
    path = folder / "evaluations" / BEST
    atomic_write(path, json.dumps({"best": chosen}, indent=1) + "\n")
