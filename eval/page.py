"""The sections of a report as HTML."""

import base64
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from eval.curves import Point, chart

MOST_BYTES = 24 * 2**20
"""What the pictures, and again the films, of a report may weigh; older ones are named only."""
MOST_EVENTS = 300
NEWEST = 4
"""Pictures, and films, that are open at once."""
MIME = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
}


def document(title: str, made: str, sections: Sequence[str]) -> str:
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_style()}</style></head>\n<body><header><h1>{title}</h1>"
        f"<p>made {made}</p></header>\n<main>{body}</main></body></html>\n"
    )


@cache
def _style() -> str:
    return files("eval").joinpath("page.css").read_text()


def section(title: str, body: str, empty: str) -> str:
    inner = body or f'<p class="empty">{escape(empty)}</p>'
    return f'<section id="{title.lower()}"><h2>{title}</h2>{inner}</section>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    if not rows:
        return ""
    top = "".join(f"<th>{name}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def summary(facts: Mapping[str, Any]) -> str:
    config, last = facts["config"] or {}, facts["last"] or {}
    steps = f" of {facts['steps']}" if facts["steps"] else ""
    tiles = {
        "recipe": config.get("recipe"),
        "step": None if facts["step"] is None else f"{facts['step']}{steps}",
        "samples seen": last.get("samples"),
        "clips per second": _number(last.get("clips_per_s")),
        "checkpoints": len(facts["checkpoints"]) or None,
        "evaluations": len(facts["evaluations"]) or None,
    }
    shown = "".join(
        f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in tiles.items()
        if value is not None
    )
    return f'<dl class="tiles">{shown}</dl>' if shown else ""


def curves(found: Mapping[str, Sequence[Point]]) -> str:
    charts = "".join(chart(name, points) for name, points in found.items())
    body = f'<div class="charts">{charts}</div>' if charts else ""
    return section("Curves", body, "no metrics yet: they come with the first logged step")


def evaluations(results: Sequence[Mapping[str, Any]]) -> str:
    rows = [row for result in results for row in _evaluation_rows(result)]
    head = (
        "protocol",
        "step",
        "metric",
        "value",
        "± s.e.",
        "debiased",
        "sample-size bias",
        "clips",
        "detector",
        "fingerprint",
    )
    return section(
        "Evaluations", table(head, rows), "none yet: hvdm evaluate run=RUN protocol=NAME"
    ) + _remarks(results)


def _evaluation_rows(result: Mapping[str, Any]) -> list[list[str]]:
    detector = escape(result.get("detector") or "–")
    if not result.get("comparable", True):
        detector += ' <span class="mark-bad">not comparable</span>'
    rows = []
    for name, value in result.get("values", {}).items():
        of = [
            _number(result.get(key, {}).get(name)) or "–"
            for key in ("standard_error", "debiased", "null_bias")
        ]
        label = f"{name} of {result.get('generated', 'samples')}"
        rows.append(
            [
                escape(result["protocol"]),
                str(result.get("step", "–")),
                escape(label),
                f"<b>{_number(value)}</b>",
                *of,
                str(result.get("counts", {}).get("clips", "–")),
                detector,
                f"<code>{escape(result['fingerprint'][:8])}</code>",
            ]
        )
    return rows


def _remarks(results: Sequence[Mapping[str, Any]]) -> str:
    """Warnings and controls of each result, once each."""
    notes = []
    for result in results:
        where = f"{result['protocol']} step {result.get('step')}"
        notes += [f"{where}: {text}" for text in result.get("warnings", ())]
        controls = result.get("controls") or {}
        if controls.get("shuffled_frames") is not None:
            notes.append(
                f"{where}: frames shuffled {_number(controls['shuffled_frames'])}"
                + _floor(controls.get("halves"))
            )
    items = "".join(f"<li>{escape(note)}</li>" for note in dict.fromkeys(notes))
    return f'<ul class="notes">{items}</ul>' if items else ""


def _floor(halves: Mapping[str, Any] | None) -> str:
    if not halves:
        return ""
    return (
        f", half of the originals against the other {_number(halves['value'])} "
        f"(chance alone {_number(halves['null_bias'])})"
    )


def pictures(paths: Sequence[Path], folder: Path) -> str:
    body = _embedded(
        paths, folder, lambda uri, name: f'<img src="{uri}" alt="{name}" loading="lazy">'
    )
    return section("Pictures", body, "none yet: hvdm sample and hvdm evaluate make some")


def films(paths: Sequence[Path], folder: Path) -> str:
    def player(uri: str, name: str) -> str:
        return f'<video src="{uri}" controls autoplay loop muted playsinline></video>'

    return section("Clips", _embedded(paths, folder, player), "none yet: hvdm sample makes some")


def _embedded(paths: Sequence[Path], folder: Path, show: Callable[[str, str], str]) -> str:
    """Files as data in the page, until it is heavy; the rest by name."""
    figures: list[str] = []
    left_out, weight = [], 0
    for path in paths:
        name = escape(str(path.relative_to(folder)))
        weight += path.stat().st_size
        if weight > MOST_BYTES:
            left_out.append(name)
            continue
        data = base64.b64encode(path.read_bytes()).decode()
        uri = f"data:{MIME[path.suffix]};base64,{data}"
        figures.append(f"<figure>{show(uri, name)}<figcaption>{name}</figcaption></figure>")
    more = f"<p>not embedded, in samples/: {', '.join(left_out)}</p>" if left_out else ""
    return _gallery(figures[:NEWEST]) + _older(figures[NEWEST:]) + more


def _gallery(figures: Sequence[str]) -> str:
    return f'<div class="media">{"".join(figures)}</div>' if figures else ""


def _older(figures: Sequence[str]) -> str:
    if not figures:
        return ""
    return f"<details><summary>{len(figures)} older</summary>{_gallery(figures)}</details>"


def checkpoints(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            str(c["step"]),
            f"<code>{escape(c['name'])}</code>",
            f"{c['bytes'] / 2**20:.1f} MiB",
            escape(", ".join(c["nets"])),
            str(c["world"] or "–"),
            _when(c["time"]),
        ]
        for c in reversed(found)
    ]
    head = ("step", "folder", "size", "networks", "workers", "written")
    return section("Checkpoints", table(head, rows), "none yet")


def events(found: Sequence[Mapping[str, Any]]) -> str:
    shown = found[-MOST_EVENTS:]
    rows = [
        [
            _when(e.get("time")),
            escape(str(e.get("event", "–"))),
            str(e.get("step", "–")),
            f"<small>{escape(_details(e))}</small>",
        ]
        for e in reversed(shown)
    ]
    body = table(("time", "event", "step", "details"), rows)
    if len(found) > len(shown):
        body += f"<p>and {len(found) - len(shown)} earlier ones in events.jsonl</p>"
    return section(
        "Events",
        body and f"<details open><summary>{len(found)} events</summary>{body}</details>",
        "none yet",
    )


def _details(event: Mapping[str, Any]) -> str:
    rest = {k: v for k, v in event.items() if k not in ("time", "event", "step")}
    return "  ".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in rest.items())


def config(found: Mapping[str, Any] | None) -> str:
    rows = [
        [f"<code>{escape(key)}</code>", escape(str(value))] for key, value in _flat(found or {})
    ]
    body = table(("key", "value"), rows)
    return section(
        "Config",
        body and f"<details><summary>{len(rows)} keys</summary>{body}</details>",
        "config.yaml is missing",
    )


def _flat(value: Mapping[str, Any], where: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, inner in value.items():
        name = f"{where}{key}"
        rows += _flat(inner, f"{name}.") if isinstance(inner, Mapping) else [(name, inner)]
    return rows


def _number(value: Any) -> str | None:
    return f"{value:.4g}" if isinstance(value, int | float) else None


def _when(stamp: Any) -> str:
    if not isinstance(stamp, int | float):
        return "–"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stamp))
