"""The sections of a report as HTML."""

import json
import time
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from eval.report import embedded, measured
from eval.report.curves import Curve, chart
from eval.report.embedded import Medium
from eval.report.measured import Html, flat, number, quoted
from hvdm.events import duration

MOST_EVENTS = 300
_SUN = '<button id="theme" type="button" hidden></button>'
_SMOOTHING = (
    '<label class="control" hidden>smoothing '
    '<input id="smoothing" type="range" min="0" max="99" value="60" aria-label="smoothing"></label>'
)


def document(title: str, made: str, sections: Sequence[str]) -> str:
    """One file; what it shows is in it, and it asks for nothing."""
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{title}</title><style>{_asset('page.css')}</style></head>\n"
        f"<body><header><div><h1>{title}</h1><p>made {made}</p></div>{_SUN}</header>\n"
        f"<main>{body}</main>\n<script>{_asset('page.js')}</script></body></html>\n"
    )


@cache
def _asset(name: str) -> str:
    return files("eval.report").joinpath(name).read_text()


def section(title: str, body: str, empty: str) -> str:
    inner = body or f'<p class="empty">{escape(empty)}</p>'
    return f'<section id="{title.lower()}"><h2>{title}</h2>{inner}</section>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are text, and quoted here, but for those that are HTML already."""
    if not rows:
        return ""
    top = "".join(f"<th>{name}</th>" for name in head)
    body = "".join(
        f"<tr>{''.join(f'<td>{quoted(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def summary(facts: Mapping[str, Any]) -> str:
    config, last = facts["config"] or {}, facts["last"] or {}
    environment, time_of = facts["environment"] or {}, facts["ledger"] or {}
    goodput = time_of.get("goodput")
    steps = f" of {facts['steps']}" if facts["steps"] else ""
    tiles = {
        "recipe": config.get("recipe"),
        "step": None if facts["step"] is None else f"{facts['step']}{steps}",
        "samples seen": last.get("samples"),
        "clips per second": number(last.get("clips_per_s")),
        "engine": environment.get("engine"),
        "workers": environment.get("workers"),
        "goodput": None if goodput is None else f"{goodput:.1%}",
        "checkpoints": len(facts["checkpoints"]) or None,
        "evaluations": len(facts["evaluations"]) or None,
    }
    shown = "".join(
        f"<div><dt>{name}</dt><dd>{_breakable(str(value))}</dd></div>"
        for name, value in tiles.items()
        if value is not None
    )
    return f'<dl class="tiles">{shown}</dl>' if shown else ""


_MEANING = {
    "compute": "steps that count",
    "data": "waiting for rows",
    "checkpoint": "standing still for a save",
    "restart": "from a command or a loss to the first step, and steps that were lost",
    "idle": "between two commands, and the rest",
}


def wall_time(found: Mapping[str, Any] | None) -> str:
    """Where the wall time went, and what losses cost."""
    if found is None:
        return section("Time", "", "no account yet: it comes with the first logged step")
    rows = [
        [name, f"{found['shares'][name]:.1%}", duration(seconds), _MEANING[name]]
        for name, seconds in found["seconds"].items()
    ]
    rows.append(["together", f"{sum(found['shares'].values()):.1%}", duration(found["wall_s"]), ""])
    recovered = ", ".join(f"{row['seconds']:.1f} s" for row in found["recoveries"])
    told = [f"goodput {found['goodput']:.1%}", f"{found['lost_steps']} steps done again"]
    told += [f"recovered in {recovered}"] if recovered else []
    body = table(("column", "share", "time", "what it is"), rows) + f"<p>{'; '.join(told)}</p>"
    return section("Time", body, "")


def _breakable(text: str) -> str:
    """Long names break behind their dots."""
    return escape(text).replace(".", ".<wbr>") if len(text) > 12 else escape(text)


def curves(found: Mapping[str, Curve]) -> str:
    charts = "".join(chart(name, curve) for name, curve in found.items())
    body = f'{_SMOOTHING}<div class="charts">{charts}</div>' if charts else ""
    return section("Curves", body, "no metrics yet: they come with the first logged step")


def reconstructions(found: Sequence[Medium]) -> str:
    body = embedded.by_step(m for m in found if m.reconstruction)
    empty = "none yet: hvdm evaluate run=RUN protocol=reconstruction@1 makes some"
    return section("Reconstructions", body, empty)


def samples(found: Sequence[Medium], left_out: Sequence[str]) -> str:
    body = embedded.by_step(m for m in found if not m.reconstruction)
    if left_out:
        names = escape(", ".join(left_out))
        body += f"<p>not embedded, for their weight; in samples/: {names}</p>"
    return section("Samples", body, "none yet: hvdm sample run=RUN makes some")


def evaluations(results: Sequence[Mapping[str, Any]]) -> str:
    rows = [row for result in results for row in measured.rows(result)]
    body = measured.charts(results) + table(measured.HEAD, rows)
    body += measured.remarks(results) + measured.protocols(results)
    return section("Evaluations", body, "none yet: hvdm evaluate run=RUN protocol=NAME")


def checkpoints(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            str(c["step"]),
            Html(f"<code>{escape(c['name'])}</code>"),
            f"{c['bytes'] / 2**20:.1f} MiB",
            ", ".join(c["nets"]),
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
            str(e.get("event", "–")),
            str(e.get("step", "–")),
            Html(f"<small>{escape(_details(e))}</small>"),
        ]
        for e in reversed(shown)
    ]
    body = table(("time", "event", "step", "details"), rows)
    if len(found) > len(shown):
        body += f"<p>and {len(found) - len(shown)} earlier ones in events.jsonl</p>"
    return section("Events", _folded(f"{len(found)} events", body, is_open=True), "none yet")


def _folded(title: str, body: str, is_open: bool = False) -> str:
    """Nothing where there is nothing to fold."""
    state = " open" if is_open else ""
    return body and f"<details{state}><summary>{title}</summary>{body}</details>"


def _details(event: Mapping[str, Any]) -> str:
    if "text" in event:
        return str(event["text"])
    rest = {k: v for k, v in event.items() if k not in ("time", "event", "step", "spent")}
    return "  ".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in rest.items())


def config(found: Mapping[str, Any] | None) -> str:
    rows = _key_values(found or {})
    body = _folded(f"{len(rows)} keys", table(("key", "value"), rows))
    return section("Config", body, "config.yaml is missing")


def environment(found: Mapping[str, Any] | None) -> str:
    """What the newest start of the run said of itself."""
    rows = _key_values(found or {})
    body = _folded(f"{len(rows)} facts", table(("what", "value"), rows))
    return section("Environment", body, "the run has not started yet")


def _key_values(found: Mapping[str, Any]) -> list[list[str]]:
    return [[Html(f"<code>{escape(key)}</code>"), str(value)] for key, value in flat(found)]


def _when(stamp: Any) -> str:
    if not isinstance(stamp, int | float):
        return "–"
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stamp))
    except (ValueError, OverflowError, OSError):
        return "–"
