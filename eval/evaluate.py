"""The evaluation: one checkpoint, one protocol, blocks handed to whoever computes them."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval import detectors, frechet, reconstruction
from eval.kinds import Kind, Preview, Summary
from eval.protocol import Protocol, fields_of, find, fingerprint
from eval.results import compare, line, read, write
from eval.subject import SAMPLES, Task, decoder_versions, hold
from hvdm import build
from hvdm.build import Opened
from hvdm.errors import RunError, UserError
from hvdm.run import versions

__all__ = ["Request", "compare", "evaluate", "line", "read"]

KINDS: Mapping[str, Kind] = {"reconstruction": reconstruction.KIND, "frechet": frechet.KIND}

Run = Callable[[Callable[[Task], Any], Iterable[Task]], Iterable[Any]]
"""Applies a function to items, like `map`: here, in processes, or on a cluster."""


@dataclass(frozen=True)
class Request:
    """What is asked for. `run` is RUN or RUN@STEP; `clips` replaces the protocol's count."""

    run: str
    protocol: str
    detector: str | None = None
    clips: int | None = None
    seed: int = 0
    steps: int | None = None
    out: str | None = None
    device: str = "cpu"
    pictures: bool = True


@dataclass(frozen=True)
class Plan:
    """A request with all of its names resolved, so that every worker measures the same."""

    request: Request
    protocol: Protocol
    opened: Opened
    detector: str | None
    generated: str
    data: Mapping[str, Any]
    clips: int

    def fields(self) -> dict[str, Any]:
        data = self.opened.config.data
        video = {name: getattr(data, name) for name in ("frames", "stride", "height", "width")}
        video |= {"start": 0, "decoder": decoder_versions(), "resize": "crop, bilinear antialias"}
        sampled = self.generated == SAMPLES
        generated = {
            "what": self.generated,
            "seed": self.request.seed if sampled else None,
            "steps": self.request.steps if sampled else None,
            "rounding": "uint8, nearest",
        }
        made = detectors.make(self.detector, self.request.device) if self.detector else None
        detector = made.fields() if made else None
        return fields_of(self.protocol, self.clips, video, self.data, detector, generated)

    def tasks(self) -> list[Task]:
        size = self.protocol.block_of(self.clips)
        firsts = range(0, self.clips, size)
        return [
            self._task(k, first, min(first + size, self.clips)) for k, first in enumerate(firsts)
        ]

    def _task(self, number: int, first: int, end: int) -> Task:
        return Task(
            run=str(self.opened.run.absolute()),
            step=self.opened.step,
            weights=self.opened.weights_hash,
            manifest=self.data["manifest"],
            protocol=self.protocol,
            detector=self.detector,
            generated=self.generated,
            seed=self.request.seed,
            steps=self.request.steps,
            device=self.request.device,
            number=number,
            indices=tuple(range(first, end)),
        )


def evaluate(request: Request, run: Run = map, say: Callable[[str], Any] = print) -> dict[str, Any]:
    """Measures a checkpoint, writes the result into its run folder, and gives it."""
    began = time.monotonic()
    plan = _plan(request, say)
    tasks, kind = plan.tasks(), KINDS[plan.protocol.kind]
    say(
        f"{plan.protocol.full_name}: step {plan.opened.step} of {plan.opened.run}, {plan.clips} "
        f"clips of {plan.data['split']!r} in {len(tasks)} blocks"
    )
    blocks = _in_order(run(kind.measure, tasks), len(tasks))
    summary = kind.summarize(plan.protocol, blocks)
    result = _result(plan, summary, len(tasks), time.monotonic() - began)
    result["path"] = str(write(result, request.out))
    if request.pictures:
        _show(plan, blocks[0].preview)
    for text in (*summary.warnings, line(result)):
        say(text)
    return result


def _in_order(blocks: Iterable[Any], count: int) -> list[Any]:
    """By number: a block that was measured twice counts once, and the sum has one order."""
    found = {block.number: block for block in blocks}
    if len(found) != count:
        raise RunError(f"{count - len(found)} of {count} blocks were not measured; evaluate again")
    return [found[number] for number in sorted(found)]


def _plan(request: Request, say: Callable[[str], Any]) -> Plan:
    protocol = find(request.protocol, request.clips)
    detector = _detector(request, protocol)
    opened = build.open_run(request.run, device=request.device)
    hold(opened, request.device)
    _check_shape(protocol, opened)
    _check_first_stage(opened)
    generated = KINDS[protocol.kind].generated(opened, protocol, request.steps)
    data, clips = _held_out(opened, protocol, say)
    return Plan(request, protocol, opened, detector, generated, data, clips)


def _detector(request: Request, protocol: Protocol) -> str | None:
    if protocol.detector_default is None:
        if request.detector is not None:
            raise UserError(
                f"detector={request.detector}: {protocol.full_name} compares pixels and takes none"
            )
        return None
    name = request.detector or protocol.detector_default
    detectors.find(name)
    return name


def _check_shape(protocol: Protocol, opened: Opened) -> None:
    for name in ("frames", "stride"):
        wanted, there = getattr(protocol, name), getattr(opened.config.data, name)
        if wanted not in (None, there):
            raise UserError(
                f"protocol={protocol.full_name} is for clips with data.{name}={wanted}, and "
                f"{opened.run} has {there}"
            )


def _check_first_stage(opened: Opened) -> None:
    """What decodes the samples has to be what the model was trained on."""
    then = opened.checkpoint.manifest.get("identity", {}).get("first_stage_weights")
    if then is not None and then != build.first_stage_hash(opened.config):
        raise UserError(
            f"first_stage={opened.config.first_stage} has other weights now than when step "
            f"{opened.step} of {opened.run} was trained on it; bring that checkpoint back"
        )


def _held_out(
    opened: Opened, protocol: Protocol, say: Callable[[str], Any]
) -> tuple[dict[str, Any], int]:
    """What is known of the held-out split, and how many of its clips are measured."""
    split = opened.config.data.held_out
    with build.build_loader(opened.config, split) as loader:
        known, there = loader.identity(), len(loader)
    if there < 2:
        raise UserError(f"data split {split!r} has {there} clip: a spread needs at least 2")
    if there < protocol.clips:
        say(
            f"{protocol.full_name} asks for {protocol.clips} clips, {split!r} has {there}: all used"
        )
    data = {"manifest": known["manifest"], "split": known["split"]}
    return data, min(there, protocol.clips)


def _result(plan: Plan, summary: Summary, blocks: int, seconds: float) -> dict[str, Any]:
    fields = plan.fields()
    comparable = plan.detector is None or detectors.find(plan.detector).comparable
    return {
        "protocol": plan.protocol.full_name,
        "detector": plan.detector,
        "comparable": comparable,
        "values": dict(summary.values),
        "standard_error": dict(summary.standard_error),
        "debiased": dict(summary.debiased),
        "null_bias": dict(summary.null_bias),
        "warnings": list(summary.warnings),
        "generated": plan.generated,
        "counts": {"clips": plan.clips, "asked": plan.protocol.clips, "blocks": blocks},
        "fingerprint": fingerprint(fields),
        "fields": fields,
        "run": str(plan.opened.run),
        "recipe": plan.opened.config.recipe,
        "step": plan.opened.step,
        "weights": plan.opened.weights_hash,
        "first_stage": plan.opened.checkpoint.manifest.get("identity", {}).get(
            "first_stage_weights"
        ),
        "manifest": plan.data["manifest"],
        "device": plan.request.device,
        "time": time.time(),
        "seconds": round(seconds, 3),
        "versions": versions(),
        **summary.details,
    }


def _show(plan: Plan, preview: Preview | None) -> None:
    """Clips to look at, beside the numbers, for the report."""
    if preview is None:
        return
    from eval.pictures import write_previews

    folder = Path(plan.opened.run) / "samples"
    write_previews(folder, plan.opened.step, plan.generated, preview.original, preview.generated)
