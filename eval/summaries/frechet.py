"""The Frechet distance of a detector's features, with its error, bias and controls."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from eval.blocks.extract import SHUFFLED
from eval.blocks.feature_store import FeatureStore, Groups
from eval.networks.detectors import FEATURES
from eval.numbers.jackknife import Estimate, estimate, extrapolate, jackknife
from eval.numbers.statistics import (
    Floats,
    Moments,
    factor_distance,
    fold,
    frechet_distance,
    null_bias,
)
from eval.protocol.kinds import Measured, MeasureOptions, Stores, Summary
from eval.protocol.protocol import Protocol


@dataclass(frozen=True)
class Side:
    """One layer of a set, in the groups that the jackknife leaves out."""

    store: FeatureStore
    layer: str
    groups: Groups

    @cached_property
    def moments(self) -> Mapping[int, Moments]:
        return self.store.moments(self.layer, self.groups)

    def rows(self, kept: list[int]) -> Floats:
        numbers = [number for group in kept for number in self.groups[group]]
        return self.store.rows(self.layer, numbers)

    @property
    def numbers(self) -> list[int]:
        return list(range(len(self.groups)))


def sides(protocol: Protocol, stores: Stores, layer: str = FEATURES) -> tuple[Side, Side]:
    """Both sets in equally many groups."""
    both = stores["real"], stores["generated"]
    count = min(len(store.groups(protocol.groups)) for store in both)
    a, b = (Side(store, layer, store.groups(count)) for store in both)
    return a, b


def measured(a: Side, b: Side, ddof: int) -> Estimate:
    """From moments; from the features themselves where they are fewer than their dimensions."""

    def distance(first: Moments, second: Moments, left_out: int | None) -> float:
        if min(first.count, second.count) > first.dimensions:
            return frechet_distance(first, second, ddof)
        kept = [number for number in a.numbers if number != left_out]
        return factor_distance(a.rows(kept), b.rows(kept), ddof)

    return estimate(a.moments, b.moments, ddof, distance)


def with_error(found: Estimate) -> Measured:
    return Measured(
        value=found.value,
        standard_error=found.standard_error,
        debiased=found.debiased,
        null_bias=found.null_bias,
        interval=found.interval,
    )


def summarize(protocol: Protocol, stores: Stores, options: MeasureOptions) -> Summary:
    if protocol.window is not None and not protocol.pooled:
        return _windows(protocol, stores)
    a, b = sides(protocol, stores)
    found = measured(a, b, protocol.ddof)
    name = protocol.metric
    shuffled, floor = _shuffled(a, protocol.ddof), halves(a, protocol.ddof)
    whole = fold(a.moments)
    more: dict[str, Any] = {}
    if options.extrapolate:
        line = extrapolate(a.moments, b.moments, protocol.ddof)
        more["extrapolated"] = {name: line._asdict() if line else None}
    return Summary(
        {name: with_error(found)},
        warnings=_warnings(found.reason, whole, shuffled, floor),
        details={
            "features": whole.dimensions,
            "controls": {"shuffled_frames": shuffled, "halves": floor},
            "blocks": block_rows(a, name, found.left_out),
            **more,
        },
    )


def _shuffled(a: Side, ddof: int) -> float | None:
    """How far the real clips are from themselves with shuffled frames; frames alone have none."""
    if SHUFFLED not in a.store.layers():
        return None
    other = Side(a.store, SHUFFLED, a.groups)
    return _distance(a, a.numbers, other, other.numbers, ddof)


def halves(a: Side, ddof: int) -> dict[str, float | int] | None:
    """The floor: odd against even groups of the originals, and what chance alone gives there."""
    parts = [a.numbers[begin::2] for begin in (0, 1)]
    if not all(parts):
        return None
    count = min(sum(a.moments[k].count for k in part) for part in parts)
    if count < 2:
        return None
    bias = null_bias(fold(a.moments), count)
    value = _distance(a, parts[0], a, parts[1], ddof)
    return {"value": value, "null_bias": bias, "clips": count}


def _distance(a: Side, of_a: list[int], b: Side, of_b: list[int], ddof: int) -> float:
    first, second = fold({k: a.moments[k] for k in of_a}), fold({k: b.moments[k] for k in of_b})
    if min(first.count, second.count) > first.dimensions:
        return frechet_distance(first, second, ddof)
    return factor_distance(a.rows(of_a), b.rows(of_b), ddof)


def _warnings(
    reason: str | None,
    real: Moments,
    shuffled_frames: float | None,
    halves: Mapping[str, Any] | None,
) -> tuple[str, ...]:
    found = [reason] if reason else []
    if real.count <= real.dimensions:
        found.append(
            f"{real.count} samples do not span {real.dimensions} features: a rough distance"
        )
    if halves and shuffled_frames is not None and shuffled_frames <= halves["value"]:
        found.append("shuffled frames are no farther than chance: this detector sees no motion")
    return tuple(found)


def block_rows(a: Side, name: str, left_out: list[float]) -> list[dict[str, Any]]:
    """Each group's samples and the value without it: what the standard error came from."""
    return block_rows_of([a.moments[k].count for k in a.numbers], name, left_out)


def block_rows_of(sizes: list[int], name: str, left_out: list[float]) -> list[dict[str, Any]]:
    return [
        {"block": k, "clips": size, "without": value, "of": name}
        for k, (size, value) in enumerate(zip(sizes, left_out, strict=False))
    ]


# Sliding windows


def _windows(protocol: Protocol, stores: Stores) -> Summary:
    """The distance of each window, and their mean, over the length of the clips."""
    name, starts = protocol.metric, window_starts(stores["generated"])
    a, b = sides(protocol, stores, f"{FEATURES}@0")
    found = [
        measured(a, replace(b, layer=f"{FEATURES}@{start}"), protocol.ddof) for start in starts
    ]
    value = float(np.mean([window.value for window in found]))
    left_out = np.mean([window.left_out for window in found], axis=0).tolist()
    error, debiased, reason = None, None, found[0].reason
    if left_out:
        sizes = [a.moments[k].count for k in a.numbers]
        error, debiased = jackknife(value, left_out, sizes)
    debiased = None if reason else debiased
    mean = Estimate(value, error, debiased, found[0].null_bias, left_out, reason)
    return Summary(
        {name: with_error(mean)},
        warnings=(reason,) if reason else (),
        details={
            "features": fold(a.moments).dimensions,
            "controls": {"shuffled_frames": None, "halves": halves(a, protocol.ddof)},
            "curve": [_curve_row(*row) for row in zip(starts, found, strict=True)],
            "blocks": block_rows(a, name, left_out),
        },
    )


def window_starts(store: FeatureStore) -> list[int]:
    prefix = f"{FEATURES}@"
    return sorted(
        int(name.removeprefix(prefix)) for name in store.layers() if name.startswith(prefix)
    )


def _curve_row(start: int, found: Estimate) -> dict[str, Any]:
    return {
        "frame": start,
        "value": found.value,
        "standard_error": found.standard_error,
        "debiased": found.debiased,
    }
