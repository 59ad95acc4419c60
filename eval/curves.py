"""Curves over training steps, drawn as inline SVG."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Point = tuple[float, float]
WIDTH, HEIGHT = 420, 200
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 26
MOST_POINTS, MOST_MARKS = 600, 60
LOG_FROM = 30.0
"""From this ratio of largest to smallest on, positive values get a logarithmic axis."""


def series(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Point]]:
    """Finite values by name and step; a step that ran twice, after a crash, counts once."""
    found: dict[str, dict[float, float]] = {}
    for row in rows:
        step = row.get("step")
        for name, value in row.items():
            if isinstance(step, int) and _drawn(name, value):
                found.setdefault(name, {})[step] = float(value)
    order = sorted(found, key=lambda name: (_rank(name), name))
    return {name: sorted(found[name].items()) for name in order}


def _drawn(name: str, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return "/" in name or name in ("clips_per_s", "lr")


def _rank(name: str) -> int:
    for rank, end in enumerate(("loss", "psnr", "", "grad_norm")):
        if end and name.endswith(end):
            return rank
    return 2 if "/" in name else 4


def chart(name: str, points: Sequence[Point]) -> str:
    """A figure with one curve."""
    kept = _thinned(points)
    steps, values = [p[0] for p in kept], [p[1] for p in kept]
    logarithmic = min(values) > 0 and max(values) / min(values) > LOG_FROM
    x = _Axis(min(steps), max(steps), LEFT, WIDTH - RIGHT)
    y = _Axis(*_padded(values, logarithmic), HEIGHT - BOTTOM, TOP, logarithmic)
    line = " ".join(f"{x.at(s):.1f},{y.at(v):.1f}" for s, v in kept)
    body = _grid(x, y) + f'<polyline class="line" points="{line}"/>' + _marks(kept, x, y)
    last = f"{values[-1]:.4g}"
    scale = " (log scale)" if logarithmic else ""
    return (
        f'<figure class="chart"><figcaption>{escape(name)}{scale}<b>{last}</b></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(name)} over steps, last {last}">{body}</svg></figure>'
    )


def _thinned(points: Sequence[Point]) -> list[Point]:
    every = max(1, math.ceil(len(points) / MOST_POINTS))
    kept = list(points[::every])
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _padded(values: Sequence[float], logarithmic: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if logarithmic:
        return low / 1.2, high * 1.2
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return low - room, high + room


class _Axis:
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


def _grid(x: _Axis, y: _Axis) -> str:
    parts = []
    for value in y.ticks():
        at = y.at(value)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 3.5:.1f}" class="end">{_short(value)}</text>')
    for value in x.ticks():
        at = x.at(value)
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - 8}" class="mid">{_short(value)}</text>')
    return "".join(parts)


def _marks(points: Sequence[Point], x: _Axis, y: _Axis) -> str:
    """Points that tell their value when pointed at."""
    every = max(1, math.ceil(len(points) / MOST_MARKS))
    return "".join(
        f'<circle class="mark" cx="{x.at(s):.1f}" cy="{y.at(v):.1f}" r="5">'
        f"<title>step {s:.0f}: {v:.5g}</title></circle>"
        for s, v in points[::every]
    )


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
