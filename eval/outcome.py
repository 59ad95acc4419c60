"""From the features of a plan to its result: numbers, warnings, files beside the run."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from eval import history, results
from eval.blocks.cost import told
from eval.blocks.feature_store import FeatureStore
from eval.catalogue import kind_of
from eval.clips.subject import RECONSTRUCTIONS, SAMPLES
from eval.networks import detectors
from eval.plans import Plan, Say, wanted
from eval.protocol.kinds import MeasureOptions, Stores, Summary
from hvdm.errors import UserError
from hvdm.recipe import bits_of
from hvdm.run.run import versions


def finish(plan: Plan, stores: Stores, seconds: float, say: Say) -> dict[str, Any]:
    summary = _summary(plan, stores)
    result = _result(plan, stores, summary, seconds)
    result["path"] = str(results.write(result, plan.request.out))
    if plan.request.pictures and plan.subject.run:
        _show(plan, stores)
    if plan.subject.opened:
        history.record(plan.subject.opened, result)
    for text in (*result["warnings"], results.line(result)):
        say(text)
    return result


def _summary(plan: Plan, stores: Stores) -> Summary:
    for name, store in stores.items():
        if store.clips() < 2:
            raise UserError(
                f"{name} set: {store.clips()} of {plan.works[name].clips} clips are long enough, "
                "and a spread needs at least 2"
            )
    options, kind = MeasureOptions(plan.request.extrapolate), kind_of(plan.protocol)
    found = kind.summarize(plan.protocol, stores, options)
    for name in plan.baselines:
        there = {**stores, "generated": stores[name]}
        found = found.joined(kind.summarize(plan.protocol, there, options).beside(name))
    return found


def identity(plan: Plan) -> dict[str, Any]:
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
        **identity(plan),
        "about": plan.protocol.about,
        "detector": detector.name if detector else None,
        "comparable": comparable,
        "comparable_with": None if comparable else wanted(plan.request, plan.protocol),
        **summary.columns(),
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
        "bits_per_sample": bits_of(opened.recipe) if opened else None,
        "cost": told(stores["generated"].read(0)) if "generated" in stores else None,
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
    digests = [hashed for number in range(store.blocks) for hashed in _digests(store, number)]
    again = len(digests) - len(set(digests))
    return [f"{again} generated clips equal others to the bit"] if again else []


def _digests(store: FeatureStore, number: int) -> Iterator[bytes]:
    """Of each clip's features: one block at a time is in memory."""
    block = store.read(number)
    if clips := len(block["keys"]):
        for row in block[detectors.FEATURES].reshape(clips, -1):
            yield hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _show(plan: Plan, stores: Stores) -> None:
    """Clips to look at, beside the numbers, for the report."""
    from hvdm.media.pictures import write_previews

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
