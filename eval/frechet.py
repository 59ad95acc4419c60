"""`fvd`: the Frechet distance of a detector's features, with its error, bias and controls."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eval.detectors import make
from eval.kinds import Kind, Preview, Summary, preview_of
from eval.protocol import Protocol
from eval.statistics import (
    Floats,
    Moments,
    estimate,
    fold,
    frechet_distance,
    moments,
    null_bias,
)
from eval.subject import (
    RECONSTRUCTIONS,
    SAMPLES,
    Task,
    block,
    reconstructs,
    refuse_not_finite,
)
from hvdm import rng
from hvdm.build import Opened
from hvdm.errors import UserError
from hvdm.recipe import Noise, SampleRequest

NAME = "fvd"


class Features(NamedTuple):
    """Moments of a block: originals, what the model made, originals with frames shuffled."""

    number: int
    real: Moments
    generated: Moments
    shuffled: Moments
    preview: Preview | None


def _generated(opened: Opened, protocol: Protocol, steps: int | None) -> str:
    if not reconstructs(opened):
        return SAMPLES
    try:
        noise = Noise(0, (0,), device=next(opened.nets.parameters()).device)
        with torch.no_grad():
            opened.recipe.sample(opened.nets, SampleRequest(steps=steps), noise)
    except UserError as error:
        if steps is not None:
            raise UserError(f"steps={steps}: this model samples nothing ({error})") from None
        return RECONSTRUCTIONS
    return SAMPLES


def measure(task: Task) -> Features:
    assert task.detector is not None
    detector = make(task.detector, task.device)
    sides: dict[str, list[Floats]] = {"real": [], "generated": [], "shuffled": []}
    preview = None
    with block(task) as parts:
        for indices, part in zip(task.parts, parts, strict=True):
            preview = preview or preview_of(task, part.original, part.generated)
            videos = {
                "real": part.original,
                "generated": part.generated,
                "shuffled": shuffle_frames(part.original, indices),
            }
            for side, video in videos.items():
                features = detector.extract(video)
                refuse_not_finite(features, part.keys, f"a feature of its {side} clip")
                sides[side] += list(features.numpy())
    return Features(task.number, **{k: moments(rows) for k, rows in sides.items()}, preview=preview)


def shuffle_frames(video: Tensor, indices: tuple[int, ...]) -> Tensor:
    """Each clip's frames in an order of its own, never the true one."""
    return torch.stack(
        [clip[_order(len(clip), index)] for clip, index in zip(video, indices, strict=True)]
    )


def _order(frames: int, index: int) -> Tensor:
    order = torch.randperm(frames, generator=rng.generator("shuffled frames", index))
    unchanged = bool((order == torch.arange(frames)).all())
    return order.roll(1) if unchanged else order


def summarize(protocol: Protocol, blocks: list[Features]) -> Summary:
    ddof = 1 if protocol.covariance == "N-1" else 0
    real = {part.number: part.real for part in blocks}
    generated = {part.number: part.generated for part in blocks}
    shuffled = {part.number: part.shuffled for part in blocks}
    found = estimate(real, generated, ddof)
    control, halves = frechet_distance(fold(real), fold(shuffled), ddof), _halves(real, ddof)
    return Summary(
        values={NAME: found.value},
        standard_error={NAME: found.standard_error},
        debiased={NAME: found.debiased},
        null_bias={NAME: found.null_bias},
        warnings=_warnings(found.reason, fold(real), control, halves),
        details={
            "features": fold(real).dimensions,
            "controls": {"shuffled_frames": control, "halves": halves},
            "blocks": _block_rows(real, found.left_out),
        },
    )


def _warnings(
    reason: str | None, real: Moments, shuffled: float, halves: Mapping[str, Any] | None
) -> tuple[str, ...]:
    found = [reason] if reason else []
    if real.count <= real.dimensions:
        found.append(f"{real.count} clips do not span {real.dimensions} features: a rough distance")
    if halves and shuffled <= halves["value"]:
        found.append("shuffled frames are no farther than chance: this detector sees no motion")
    return tuple(found)


def _halves(real: Mapping[int, Moments], ddof: int) -> dict[str, float | int] | None:
    """The floor: odd against even blocks of the originals, and what chance alone gives there."""
    numbers = sorted(real)
    halves = [{n: real[n] for n in numbers[begin::2]} for begin in (0, 1)]
    if not all(halves):
        return None
    a, b = map(fold, halves)
    count = min(a.count, b.count)
    if count < 2:
        return None
    bias = null_bias(fold(real), count)
    return {"value": frechet_distance(a, b, ddof), "null_bias": bias, "clips": count}


def _block_rows(real: Mapping[int, Moments], left_out: list[float]) -> list[dict[str, float]]:
    """Each block's clips and the distance without it: what the standard error came from."""
    numbers = sorted(real)
    return [
        {"block": n, "clips": real[n].count, "without": value}
        for n, value in zip(numbers, left_out, strict=False)
    ]


KIND = Kind(_generated, measure, summarize)
