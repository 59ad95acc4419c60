"""The evaluation: sets of clips, blocks that anyone may compute, numbers out of features."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from eval import detectors, features, files, frechet, history, reconstruction, results, scores
from eval.extract import Payload
from eval.kinds import Options, Summarize, Summary
from eval.plan import Plan, Say, Work, plans, wanted
from eval.progress import Progress
from eval.protocol import Protocol, find, fingerprint
from eval.request import Request
from eval.results import compare, line, read
from eval.store import Store
from eval.subject import RECONSTRUCTIONS, SAMPLES
from hvdm.errors import RunError, UserError
from hvdm.run import versions

__all__ = ["Request", "compare", "evaluate", "evaluate_all", "line", "read"]

KINDS: Mapping[str, Summarize] = {
    "frechet": frechet.summarize,
    "mmd": scores.kvd,
    "kid": scores.kid,
    "precision": scores.precision,
    "inception": scores.inception,
}

Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""Applies a function to items, like `map`: here, in processes, or on a cluster."""
Stores = dict[str, Store]


def evaluate(request: Request, run: Run = map, say: Say = print) -> dict[str, Any]:
    """One protocol's result, written beside the run."""
    (result,) = evaluate_all(request, run, say)
    return result


def evaluate_all(request: Request, run: Run = map, say: Say = print) -> list[dict[str, Any]]:
    """The result of each protocol that is named; sets that several need are seen once.

    What was measured before, of the same weights in the same way, is read and not done again.
    """
    if "features" in request.protocol:
        return [_features(request, say)]
    began = time.monotonic()
    files.forget()
    asked = plans(request, say)
    found = {plan.protocol.full_name: _known(plan) for plan in asked}
    to_do = [plan for plan in asked if found[plan.protocol.full_name] is None]
    for plan in asked:
        if plan not in to_do:
            say(f"{plan.protocol.full_name}: known already, again=true measures it anew")
    stores = _measure(to_do, run, say)
    for plan in to_do:
        own = {name: stores[work] for name, work in plan.works.items()}
        found[plan.protocol.full_name] = _finish(plan, own, time.monotonic() - began, say)
    _clear(to_do, stores)
    return [result for result in found.values() if result is not None]


def _known(plan: Plan) -> dict[str, Any] | None:
    """The result that is there already."""
    path = results.path_of(_identity(plan), plan.request.out)
    if plan.request.again or not path.is_file():
        return None
    result = read(path)
    same = result["weights"] == plan.subject.weights and result["fingerprint"] == plan.fingerprint
    return {**result, "path": str(path), "known": True} if same else None


# Measuring


def _measure(asked: list[Plan], run: Run, say: Say) -> dict[Work, Store]:
    """Every set that is needed, block by block; each block is kept as soon as it is there."""
    stores: dict[Work, Store] = {}
    by_key: dict[str, Store] = {}
    for plan in asked:
        for work in plan.works.values():
            key = work.key()
            stores[work] = by_key.setdefault(key, Store(key, work.blocks()))
            if plan.request.again and work is not plan.works.get("real"):
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


def _say_plan(asked: list[Plan], works: Mapping[str, Work], tasks: int, say: Say) -> None:
    for plan in asked:
        sets = ", ".join(f"{work.clips} {name}" for name, work in plan.works.items())
        who = plan.subject.name if plan.subject.step is None else (
            f"step {plan.subject.step} of {plan.subject.run}")  # fmt: skip
        say(f"{plan.protocol.full_name}: {who}; clips: {sets}")
    blocks = sum(work.blocks() for work in works.values())
    if asked:
        say(f"{tasks} of {blocks} blocks to measure")


def _fill(tasks: list[tuple[Store, Any]], run: Run, say: Say) -> None:
    """Keeps blocks as they come, in any order; one that comes twice replaces itself."""
    progress = Progress(len(tasks), sum(len(task.indices) for _, task in tasks), say)
    left = set(range(len(tasks)))
    items = [(at, task) for at, (_, task) in enumerate(tasks)]
    for at, payload in run(measure, items) if items else ():
        tasks[at][0].put(payload)
        left.discard(at)
        progress.tick(len(tasks[at][1].indices))
    if left:
        raise RunError(
            f"{len(left)} of {len(tasks)} blocks were not measured; evaluate again, and the rest "
            "is done"
        )


def measure(item: tuple[int, Any]) -> tuple[int, Payload]:
    """Runs in any process, so it is a function of a module."""
    at, task = item
    return at, task.run()


def _clear(asked: list[Plan], stores: Mapping[Work, Store]) -> None:
    """Features of real data stay for the next run; those of a model are of no more use."""
    kept = {stores[plan.works["real"]].key for plan in asked if "real" in plan.works}
    for plan in asked:
        for work in plan.works.values():
            if stores[work].key not in kept:
                stores[work].remove()


# Results


def _finish(plan: Plan, stores: Stores, seconds: float, say: Say) -> dict[str, Any]:
    summary = _summary(plan, stores)
    result = _result(plan, stores, summary, seconds)
    result["path"] = str(results.write(result, plan.request.out))
    if plan.request.pictures and plan.subject.run:
        _show(plan, stores)
    if plan.subject.opened:
        history.record(plan.subject.opened, result)
    for text in (*result["warnings"], line(result)):
        say(text)
    return result


def _summary(plan: Plan, stores: Stores) -> Summary:
    protocol, options = plan.protocol, Options(plan.request.extrapolate)
    for name, store in stores.items():
        if store.clips() < 2:
            raise UserError(
                f"{name} set: {store.clips()} of {plan.works[name].clips} clips are long enough, "
                "and a spread needs at least 2"
            )
    if protocol.kind == "reconstruction":
        found = reconstruction.summarize(protocol, stores["rows"], options)
        if "real" not in stores:
            return found
        of_sets = frechet.summarize(
            replace(protocol, metric="rfvd"), stores["real"], stores["generated"], options
        )
        return _joined(found, of_sets)
    real = stores.get("real", stores["generated"])
    return KINDS[protocol.kind](protocol, real, stores["generated"], options)


def _joined(a: Summary, b: Summary) -> Summary:
    return Summary(
        {**a.values, **b.values},
        {**a.standard_error, **b.standard_error},
        {**a.debiased, **b.debiased},
        {**a.null_bias, **b.null_bias},
        {**a.interval, **b.interval},
        (*a.warnings, *b.warnings),
        {**a.details, **b.details},
    )


def _identity(plan: Plan) -> dict[str, Any]:
    """What a result's file is named after."""
    return {
        "protocol": plan.protocol.full_name,
        "fingerprint": plan.fingerprint,
        "run": plan.subject.run,
        "step": plan.subject.step,
        "averaged": plan.subject.averaged,
        "subject": plan.subject.name,
        "weights": plan.subject.weights,
    }


def _result(plan: Plan, stores: Stores, summary: Summary, seconds: float) -> dict[str, Any]:
    opened, detector = plan.subject.opened, plan.detector
    data = plan.fields["data"] or {}
    comparable = detector is None or detectors.find(detector.name).comparable
    counts = {name: store.clips() for name, store in stores.items()}
    main = counts.get("generated", counts.get("rows"))
    return {
        **_identity(plan),
        "about": plan.protocol.about,
        "detector": detector.name if detector else None,
        "comparable": comparable,
        "comparable_with": None if comparable else wanted(plan.request, plan.protocol),
        "values": dict(summary.values),
        "standard_error": dict(summary.standard_error),
        "debiased": dict(summary.debiased),
        "null_bias": dict(summary.null_bias),
        "interval": dict(summary.interval),
        "warnings": [*plan.warnings, *_short(stores), *_duplicates(stores), *summary.warnings],
        "generated": plan.fields["generated"]["what"],
        "counts": {
            "clips": main,
            "real": counts.get("real"),
            "asked": plan.asked,
            "short": {name: store.short() for name, store in stores.items()},
            "blocks": stores["generated" if "generated" in stores else "rows"].blocks,
        },
        "fields": dict(plan.fields),
        "recipe": opened.config.recipe if opened else None,
        "first_stage": opened.checkpoint.manifest.get("identity", {}).get("first_stage_weights")
        if opened
        else None,
        "manifest": data.get("manifest") or data.get("sha256"),
        "device": plan.request.device,
        "time": time.time(),
        "seconds": round(seconds, 3),
        "versions": versions(),
        **summary.details,
    }


def _short(stores: Stores) -> list[str]:
    found = {name: store.short() for name, store in stores.items()}
    return [f"{count} {name} clips were too short, and left out" for name, count in found.items()
            if count]  # fmt: skip


def _duplicates(stores: Stores) -> list[str]:
    """A model that makes the same clip again and again is told so."""
    store = stores.get("generated")
    if store is None or detectors.FEATURES not in store.layers():
        return []
    each = [store.read(number) for number in range(store.blocks)]
    rows = [row.tobytes() for block in each for row in _per_clip(block)]
    again = len(rows) - len(set(rows))
    return [f"{again} generated clips equal others to the bit"] if again else []


def _per_clip(block: Mapping[str, Any]) -> Any:
    clips = len(block["keys"])
    return block[detectors.FEATURES].reshape(clips, -1) if clips else []


def _show(plan: Plan, stores: Stores) -> None:
    """Clips to look at, beside the numbers, for the report."""
    from eval.pictures import write_previews

    made = stores["generated" if "generated" in stores else "rows"].preview()
    original = stores["rows"].read(0).get("original") if "rows" in stores else None
    if original is None and "real" in stores:
        original = stores["real"].preview()
    if made is None or original is None or plan.subject.step is None:
        return
    what = str(plan.fields["generated"]["what"])
    if original.shape != made.shape and what == RECONSTRUCTIONS:
        what = SAMPLES
    sides = [torch.from_numpy(side) for side in (original, made)]
    write_previews(Path(str(plan.subject.run)) / "samples", plan.subject.step, what, *sides)


# Two files of features


def _features(request: Request, say: Say) -> dict[str, Any]:
    protocol = find(request.protocol)
    if request.run or not (request.real and request.generated):
        raise UserError(f"protocol={protocol.full_name} takes real=A.npy and generated=B.npy")
    real, generated = (
        features.read(given, side)
        for side, given in (("real", request.real), ("generated", request.generated))
    )
    features.check_pair(real, generated)
    began = time.monotonic()
    summary = features.summarize(real, generated, Options(request.extrapolate))
    result = _features_result(request, protocol, real, generated, summary)
    result["seconds"] = round(time.monotonic() - began, 3)
    result["path"] = str(results.write(result, request.out))
    for text in (*result["warnings"], line(result)):
        say(text)
    return result


def _features_result(
    request: Request,
    protocol: Protocol,
    real: features.Table,
    generated: features.Table,
    summary: Summary,
) -> dict[str, Any]:
    fields = {
        "protocol": protocol.full_name,
        "covariance": protocol.covariance,
        "data": real.identity(),
        "samples": len(generated.rows),
        "groups": features.group_count(real, generated),
    }
    return {
        "protocol": protocol.full_name,
        "about": protocol.about,
        "fingerprint": fingerprint(fields),
        "run": None,
        "step": None,
        "averaged": None,
        "subject": Path(str(request.generated)).stem,
        "weights": generated.sha256,
        "detector": None,
        "comparable": True,
        "comparable_with": None,
        **{name: dict(getattr(summary, name)) for name in
           ("values", "standard_error", "debiased", "null_bias", "interval")},
        "warnings": list(summary.warnings),
        "generated": "features",
        "counts": {"clips": len(generated.rows), "real": len(real.rows), "asked": None},
        "fields": fields,
        "manifest": real.sha256,
        "time": time.time(),
        "versions": versions(),
        **summary.details,
    }  # fmt: skip
