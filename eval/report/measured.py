"""The evaluations of a run in its report: values with error bars, and what each depends on."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from eval.report.curves import bars, lines_over
from eval.results import cost


class Html(str):
    """Markup of our own, in which every text was quoted."""


def quoted(cell: str) -> str:
    return cell if isinstance(cell, Html) else escape(cell)


Result = Mapping[str, Any]
HEAD = (
    "protocol", "step", "metric", "value", "± s.e.", "debiased", "sample-size bias", "clips",
    "cost", "detector", "fingerprint",
)  # fmt: skip


def charts(results: Sequence[Result]) -> str:
    """One figure for each metric and fingerprint: only equal fingerprints share an axis."""
    lines: dict[tuple[str, str, str], list[tuple[float, float, float | None]]] = {}
    for result in results:
        for name, value in result.get("values", {}).items():
            if isinstance(value, int | float) and value == value:
                error = result.get("standard_error", {}).get(name)
                key = (result["protocol"], name, result["fingerprint"])
                lines.setdefault(key, []).append((result.get("step") or 0, value, error))
    shown = [
        bars(f"{name}, {protocol}", sorted(points, key=lambda p: p[0]))
        for (protocol, name, _), points in lines.items()
    ]
    shown += [over_frames(result) for result in results if result.get("curve")]
    return f'<div class="charts">{"".join(shown)}</div>' if shown else ""


def over_frames(result: Result) -> str:
    """A sliding window's figure: samples, and what is measured beside them, over frames."""
    metric = next(iter(result["values"]))
    curves = {result.get("generated", "samples"): result["curve"]}
    for name, beside in result.get("baselines", {}).items():
        curves |= {name: beside["curve"]} if "curve" in beside else {}
    points = {
        name: [(float(row["frame"]), float(row["value"])) for row in rows]
        for name, rows in curves.items()
    }
    title = f"{metric} over frames, {result['protocol']}, step {result.get('step', '–')}"
    return lines_over(title, points)


def rows(result: Result) -> list[list[str]]:
    """One row of cells for each value."""
    detector = str(result.get("detector") or "–")
    if not result.get("comparable", True):
        detector = Html(f'{escape(detector)} <span class="mark-bad">not comparable</span>')
    found = []
    for name, value in result.get("values", {}).items():
        of = [
            number(result.get(key, {}).get(name)) or "–"
            for key in ("standard_error", "debiased", "null_bias")
        ]
        found.append(
            [
                result["protocol"],
                str(result.get("step", "–")),
                f"{name} of {result.get('generated', 'samples')}",
                Html(f"<b>{number(value)}</b>"),
                *of,
                str(result.get("counts", {}).get("clips", "–")),
                ", ".join(cost(result)) or "–",
                detector,
                Html(f"<code>{escape(result['fingerprint'][:8])}</code>"),
            ]
        )
    return found


def remarks(results: Sequence[Result]) -> str:
    """Warnings and controls of each result, once each."""
    notes = []
    for result in results:
        where = f"{result['protocol']} step {result.get('step')}"
        notes += [f"{where}: {text}" for text in result.get("warnings", ())]
        controls = result.get("controls") or {}
        if controls.get("shuffled_frames") is not None:
            notes.append(
                f"{where}: frames shuffled {number(controls['shuffled_frames'])}"
                + _floor(controls.get("halves"))
            )
    items = "".join(f"<li>{escape(note)}</li>" for note in dict.fromkeys(notes))
    return f'<ul class="notes">{items}</ul>' if items else ""


def _floor(halves: Mapping[str, Any] | None) -> str:
    if not halves:
        return ""
    return (
        f", half of the originals against the other {number(halves['value'])} "
        f"(chance alone {number(halves.get('null_bias'))})"
    )


def protocols(results: Sequence[Result]) -> str:
    """What each fingerprint stands for, folded away."""
    found = {r["fingerprint"]: r for r in results if r.get("fields")}
    return "".join(
        f"<details><summary>{escape(r['protocol'])}, fingerprint <code>{escape(key[:8])}</code>: "
        f"all that the number depends on</summary>{_fields(r['fields'])}</details>"
        for key, r in found.items()
    )


def _fields(fields: Mapping[str, Any]) -> str:
    cells = "".join(
        f"<tr><td><code>{escape(key)}</code></td><td>{escape(str(value))}</td></tr>"
        for key, value in flat(fields)
    )
    return f'<div class="wide"><table><tbody>{cells}</tbody></table></div>'


def flat(value: Mapping[str, Any], where: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, inner in value.items():
        name = f"{where}{key}"
        found += flat(inner, f"{name}.") if isinstance(inner, Mapping) else [(name, inner)]
    return found


def number(value: Any) -> str | None:
    return f"{value:.4g}" if isinstance(value, int | float) else None
