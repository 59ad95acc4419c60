"""The evaluation: sets of clips, blocks that anyone may compute, numbers out of features."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from eval import features, results
from eval.blocks.feature_store import FeatureStore
from eval.blocks.tasks import BlockJob, Payload
from eval.catalogue import kind_of
from eval.clips import data_rows, files
from eval.outcome import finish, identity
from eval.plans import Plan, Say, plans
from eval.protocol.protocol import find
from eval.protocol.request import Request
from eval.results import compare, line, read
from hvdm.errors import RunError
from hvdm.progress import Pace

__all__ = ["Request", "compare", "evaluate", "evaluate_all", "line", "read"]

OF_REAL_CLIPS = ("real", "known", "blurred", "still")
"""Sets that no model makes: their features stay for the next evaluation."""
Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""Applies a function to items, like `map`: here, in processes, or on a cluster."""
SAID_EVERY_S = 5.0

MANY_PAIRS = 10**9
"""From here on they take minutes."""


def evaluate(request: Request, run: Run = map, say: Say = print) -> dict[str, Any]:
    """One protocol's result, written beside the run."""
    (result,) = evaluate_all(request, run, say)
    return result


def evaluate_all(request: Request, run: Run = map, say: Say = print) -> list[dict[str, Any]]:
    """The result of each protocol that is named; sets that several need are seen once.

    What was measured before, of the same weights in the same way, is read and not done again.
    """
    if not all(kind_of(find(name)).clips for name in request.protocol.split(",")):
        return [features.evaluate_features(request, say)]
    began = time.monotonic()
    files.forget()
    data_rows.forget()
    asked = plans(request, say)
    found = {plan.protocol.full_name: _known(plan) for plan in asked}
    to_do = [plan for plan in asked if found[plan.protocol.full_name] is None]
    for plan in asked:
        if plan not in to_do:
            _say_known(plan, found[plan.protocol.full_name] or {}, say)
    stores = _measure(to_do, run, say)
    for plan in to_do:
        own = {name: stores[work] for name, work in plan.works.items()}
        found[plan.protocol.full_name] = finish(plan, own, time.monotonic() - began, say)
    _clear(to_do, stores)
    return [result for result in found.values() if result is not None]


def _known(plan: Plan) -> dict[str, Any] | None:
    """The result that is there already."""
    path = results.path_of(identity(plan), plan.request.out)
    if plan.request.again or not path.is_file():
        return None
    result = read(path)
    same = result["weights"] == plan.subject.weights and result["fingerprint"] == plan.fingerprint
    return {**result, "path": str(path), "known": True} if same else None


def _say_known(plan: Plan, result: Mapping[str, Any], say: Say) -> None:
    """Its number again, and when it was measured."""
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(result["time"]))
    again = f"measured on {day}, again=true measures it anew"
    say(f"{plan.protocol.full_name}: known already: {again}")
    for text in (*result["warnings"], line(dict(result))):
        say(text)


# Measuring


def _measure(asked: list[Plan], run: Run, say: Say) -> dict[BlockJob, FeatureStore]:
    """Every set that is needed, block by block; each block is kept as soon as it is there."""
    stores: dict[BlockJob, FeatureStore] = {}
    by_key: dict[str, FeatureStore] = {}
    for plan in asked:
        for name, work in plan.works.items():
            key = work.key()
            stores[work] = by_key.setdefault(key, FeatureStore(key, work.blocks()))
            if plan.request.again and name not in OF_REAL_CLIPS:
                stores[work].remove()
    works = {store.key: work for work, store in stores.items()}
    missing = {key: set(store.missing()) for key, store in by_key.items()}
    tasks = [
        (by_key[key], task)
        for key, work in works.items()
        for task in work.tasks()
        if task.number in missing[key]
    ]
    _say_plan(asked, works, len(tasks), say)
    _fill(tasks, run, say)
    return stores


def _pairs(each: int, clips: list[int]) -> str:
    """What grows with the square is said before it is begun."""
    count = each * max(clips, default=0) ** 2
    return f"; {count:.0e} pairs of features, fewer with clips=N" if count >= MANY_PAIRS else ""


def _say_plan(asked: list[Plan], works: Mapping[str, BlockJob], tasks: int, say: Say) -> None:
    for plan in asked:
        sets = ", ".join(f"{work.clips} {name}" for name, work in plan.works.items())
        who = plan.subject.name if plan.subject.step is None else (
            f"step {plan.subject.step} of {plan.subject.run}")  # fmt: skip
        pairs = _pairs(kind_of(plan.protocol).pairs, [w.clips for w in plan.works.values()])
        say(f"{plan.protocol.full_name}: {who}; clips: {sets}{pairs}")
    blocks = sum(work.blocks() for work in works.values())
    if asked:
        say(f"{tasks} of {blocks} blocks to measure")


def _fill(tasks: list[tuple[FeatureStore, Any]], run: Run, say: Say) -> None:
    """Keeps blocks as they come, in any order; one that comes twice replaces itself."""
    pace = Pace(sum(len(task.indices) for _, task in tasks))
    left = set(range(len(tasks)))
    items = [(at, task) for at, (_, task) in enumerate(tasks)]
    for at, payload in run(measure, items) if items else ():
        tasks[at][0].put(payload)
        left.discard(at)
        pace.done += len(tasks[at][1].indices)
        if pace.due(SAID_EVERY_S):
            done, rate = len(tasks) - len(left), pace.per_second(pace.done)
            say(f"{done} of {len(tasks)} blocks, {rate:.1f} clips/s, {pace.left()}")
    if left:
        raise RunError(
            f"{len(left)} of {len(tasks)} blocks were not measured; evaluate again, and the rest "
            "is done"
        )


def measure(item: tuple[int, Any]) -> tuple[int, Payload]:
    """Runs in any process, so it is a function of a module."""
    at, task = item
    return at, task.run()


def _clear(asked: list[Plan], stores: Mapping[BlockJob, FeatureStore]) -> None:
    """Features of real data stay for the next run; those of a model are of no more use."""
    kept = {
        stores[work].key
        for plan in asked
        for name, work in plan.works.items()
        if name in OF_REAL_CLIPS
    }
    for plan in asked:
        for work in plan.works.values():
            if stores[work].key not in kept:
                stores[work].remove()
