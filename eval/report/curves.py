"""Curves over training steps, drawn as inline SVG."""

import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

Point = tuple[float, float]
WIDTH, HEIGHT = 420, 200
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 26
MOST_POINTS = 600
MOST = 1e300
LOG_FROM = 30.0
"""From this ratio of largest to smallest on, positive values get a logarithmic axis."""


class Curve:
    """One value over the steps; two numbers are kept for each line, however many there are."""

    def __init__(self) -> None:
        self._steps, self._values = array("q"), array("d")

    def add(self, step: int, value: float) -> None:
        self._steps.append(step)
        self._values.append(value)

    def points(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """By step; one that ran twice, after a crash, counts as it was the last time."""
        steps, values = np.asarray(self._steps), np.asarray(self._values)
        if len(steps) < 2 or bool((np.diff(steps) > 0).all()):
            return steps, values
        once, at = np.unique(steps[::-1], return_index=True)
        return once, values[::-1][at]

    def shown(self) -> list[Point]:
        """Not more than can be seen, the last one among them."""
        steps, values = self.points()
        every = max(1, math.ceil(len(steps) / MOST_POINTS))
        kept = list(zip(steps[::every].tolist(), values[::every].tolist(), strict=True))
        last = (int(steps[-1]), float(values[-1]))
        return kept if kept[-1] == last else [*kept, last]

    def described(self) -> dict[str, Any]:
        steps, values = self.points()
        return {"points": len(steps), "last": float(values[-1])}


class Curves:
    """Of all lines of metrics, as they go by."""

    def __init__(self) -> None:
        self._found: dict[str, Curve] = {}
        self._left_out: set[str] = set()
        self.furthest: int | None = None
        self.last: Mapping[str, Any] | None = None

    def passing(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        for row in rows:
            self.last, step = row, row.get("step")
            if isinstance(step, int):
                if self.furthest is None or step > self.furthest:
                    self.furthest = step
                for name, value in row.items():
                    if name not in self._left_out and _is_drawable(value):
                        self._curve(name, step, value)
            yield row

    def _curve(self, name: str, step: int, value: float) -> None:
        """Names are few and lines are many, so each name is judged once."""
        curve = self._found.get(name)
        if curve is None and not _is_drawn(name):
            self._left_out.add(name)
            return
        if curve is None:
            curve = self._found[name] = Curve()
        curve.add(step, value)

    def by_name(self) -> dict[str, Curve]:
        order = sorted(self._found, key=lambda name: (_rank(name), name))
        return {name: self._found[name] for name in order}


def _is_drawable(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < MOST


def _is_drawn(name: str) -> bool:
    return "/" in name or name in ("clips_per_s", "lr")


def _rank(name: str) -> int:
    for rank, end in enumerate(("loss", "psnr", "", "grad_norm")):
        if end and name.endswith(end):
            return rank
    return 2 if "/" in name else 4


def chart(name: str, curve: Curve) -> str:
    """A figure with one curve; page.js smooths it and tells values, from the figure's data."""
    kept = curve.shown()
    steps, values = [p[0] for p in kept], [p[1] for p in kept]
    logarithmic = min(values) > 0 and max(values) / min(values) > LOG_FROM
    x = Axis(min(steps), max(steps), LEFT, WIDTH - RIGHT)
    y = Axis(*padded(values, logarithmic), HEIGHT - BOTTOM, TOP, logarithmic)
    line = " ".join(f"{x.at(s):.1f},{y.at(v):.1f}" for s, v in kept)
    drawn = f'<polyline class="raw" points="{line}"/><polyline class="line" points="{line}"/>'
    last = f"{values[-1]:.4g}"
    scale = " (log scale)" if logarithmic else ""
    shape = {"x": x.numbers(), "y": y.numbers(), "log": logarithmic, "points": kept}
    return (
        f'<figure class="chart" data-chart="{escape(json.dumps(shape))}">'
        f"<figcaption>{escape(name)}{scale}<b>{last}</b></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(name)} over steps, last {last}">{grid(x, y)}{drawn}'
        '<circle class="mark" r="4" visibility="hidden"/></svg></figure>'
    )


def bars(name: str, points: Sequence[tuple[float, float, float | None]]) -> str:
    """A figure of values over steps, each with one standard error up and down."""
    ends = [v + k * (e or 0.0) for _, v, e in points for k in (-1, 1)]
    x = Axis(*padded([p[0] for p in points], False), LEFT, WIDTH - RIGHT)
    y = Axis(*padded(ends, False), HEIGHT - BOTTOM, TOP)
    drawn = "".join(_bar(x.at(step), value, error, step, y) for step, value, error in points)
    line = " ".join(f"{x.at(s):.1f},{y.at(v):.1f}" for s, v, _ in points)
    return (
        f'<figure class="bars"><figcaption>{escape(name)}<b>{points[-1][1]:.4g}</b></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)} over steps">'
        f'{grid(x, y)}<polyline class="raw" points="{line}"/>{drawn}</svg></figure>'
    )


def _bar(at: float, value: float, error: float | None, step: float, y: "Axis") -> str:
    told = f"step {step:.0f}: {value:.5g}" + (f" ± {error:.2g}" if error is not None else "")
    mark = f'<circle class="dot" cx="{at:.1f}" cy="{y.at(value):.1f}" r="4"/>'
    if error is not None:
        top, bottom = y.at(value + error), y.at(value - error)
        mark += f'<path class="whisker" d="M{at:.1f} {top:.1f}V{bottom:.1f}'
        mark += "".join(f"M{at - 5:.1f} {end:.1f}h10" for end in (top, bottom)) + '"/>'
    return f"<g><title>{told}</title>{mark}</g>"


def lines_over(name: str, curves: Mapping[str, Sequence[Point]]) -> str:
    """A figure of several curves over the same axis, each named at its end."""
    points = [point for curve in curves.values() for point in curve]
    x = Axis(*padded([p[0] for p in points], False), LEFT, WIDTH - RIGHT)
    y = Axis(*padded([p[1] for p in points], False), HEIGHT - BOTTOM, TOP)
    drawn = ""
    for label, curve in curves.items():
        line = " ".join(f"{x.at(at):.1f},{y.at(value):.1f}" for at, value in curve)
        end = f'x="{WIDTH - RIGHT}" y="{y.at(curve[-1][1]) - 4:.1f}"'
        drawn += f'<polyline class="line" points="{line}"/>'
        drawn += f'<text {end} class="end">{escape(label)}</text>'
    return (
        f'<figure class="bars"><figcaption>{escape(name)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}">'
        f"{grid(x, y)}{drawn}</svg></figure>"
    )


def padded(values: Sequence[float], logarithmic: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if logarithmic:
        return low / 1.2, high * 1.2
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return low - room, high + room


class Axis:
    """Maps values to places between two ends, straight or by their logarithms."""

    def __init__(
        self, low: float, high: float, begin: float, end: float, logarithmic: bool = False
    ) -> None:
        self.low, self.high, self.begin, self.end = low, high, begin, end
        self.logarithmic = logarithmic

    def at(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.begin + share * (self.end - self.begin)

    def numbers(self) -> list[float]:
        return [self.low, self.high, self.begin, self.end]

    def ticks(self) -> list[float]:
        if self.logarithmic:
            return _decades(self.low, self.high)
        size = _round_step((self.high - self.low) / 6)
        first = math.ceil(self.low / size - 1e-9)
        return [size * k for k in range(first, math.floor(self.high / size + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    found = [10.0**k for k in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    return found[:: max(1, math.ceil(len(found) / 5))]


def _round_step(size: float) -> float:
    """The nearest of 1, 2, 5 times a power of ten, upwards."""
    if size <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(size))
    return next(power * k for k in (1, 2, 5, 10) if power * k >= size * 0.999)


def grid(x: Axis, y: Axis) -> str:
    parts = []
    for value in y.ticks():
        at = y.at(value)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 3.5:.1f}" class="end">{_short(value)}</text>')
    for value in x.ticks():
        at = x.at(value)
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - 8}" class="mid">{_short(value)}</text>')
    return "".join(parts)


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
