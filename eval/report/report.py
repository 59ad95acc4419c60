"""`report.html` of a run: one file that loads nothing; and the same facts as JSON."""

import time
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import yaml

from eval import history
from eval.report import embedded, page
from eval.report.curves import Curves
from hvdm.checkpoint import checkpoint
from hvdm.data.schema import from_json
from hvdm.disk import atomic_write
from hvdm.errors import UserError
from hvdm.events import each_line
from hvdm.redaction import redacted
from hvdm.run.ledger import ledger


def write_report(run: Path) -> Path:
    """RUN/report.html, whatever of the run is there."""
    run = _existing(run)
    curves = Curves()
    facts = _facts(run, curves)
    shown, left_out = embedded.within_weight(embedded.found(run / "samples"))
    sections = [
        page.summary(facts),
        page.wall_time(facts["ledger"]),
        page.curves(curves.by_name()),
        page.samples(shown, left_out),
        page.reconstructions(shown),
        page.evaluations(facts["evaluations"]),
        page.events(facts["events"]),
        page.checkpoints(facts["checkpoints"]),
        page.config(facts["config"]),
        page.environment(facts["environment"]),
    ]
    path = run / "report.html"
    made = time.strftime("%Y-%m-%d %H:%M:%S")
    document = redacted(page.document(escape(run.resolve().name), made, sections))
    atomic_write(path, document.encode("utf-8", "replace"))
    return path


def as_json(run: Path) -> dict[str, Any]:
    """What the report shows, for programs."""
    return _facts(_existing(run), Curves())


def _facts(run: Path, curves: Curves) -> dict[str, Any]:
    """Metrics go by once: a long run has millions of lines of them."""
    events = list(_sound(each_line(run / "events.jsonl")))
    account = _ledger(events, curves.passing(_sound(each_line(run / "metrics.jsonl"))))
    last = curves.last
    for _ in curves.passing(_sound(each_line(run / "held_out.jsonl"))):
        pass
    return {
        "run": str(run),
        "config": _config(run),
        "step": curves.furthest,
        "steps": last.get("steps") if last else None,
        "last": last,
        "metrics": {name: curve.described() for name, curve in curves.by_name().items()},
        "events": events,
        "ledger": account,
        "environment": _environment(events),
        "evaluations": evaluations(run),
        "checkpoints": [_checkpoint(found) for found in checkpoint.listed(run)],
        "samples": [f"samples/{m.name}" for m in embedded.found(run / "samples")],
    }


def _existing(run: Path | str) -> Path:
    if not Path(run).is_dir():
        raise UserError(f"{run} is no run folder: give the folder of a run, such as runs/NAME")
    return Path(run)


def _sound(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Those whose step and time are numbers, where they have any: the folder may be anybody's."""
    for row in rows:
        step, when = row.get("step", 0), row.get("time", 0)
        if isinstance(step, int) and abs(step) < 2**63 and isinstance(when, int | float):
            yield row


def _ledger(
    events: list[dict[str, Any]], rows: Iterator[Mapping[str, Any]]
) -> dict[str, Any] | None:
    try:
        return ledger(events, rows)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        return None  # lines that no run of ours wrote
    finally:
        for _ in rows:  # the curves want all of them
            continue


def _config(run: Path) -> dict[str, Any] | None:
    path = run / "config.yaml"
    try:
        found = yaml.safe_load(path.read_text("utf-8")) if path.is_file() else None
    except (yaml.YAMLError, RecursionError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def evaluations(run: Path) -> list[dict[str, Any]]:
    """Results by protocol and step, without their lists of clips and blocks."""
    found = []
    for path in sorted((run / "evaluations").glob("*.json")):
        try:
            content = from_json(path.read_bytes())
        except ValueError:
            continue
        if history.is_result(content):
            slim = {k: v for k, v in content.items() if k not in ("clips", "blocks")}
            found.append({**slim, "file": str(path.relative_to(run))})
    return sorted(found, key=lambda r: (r["protocol"], r.get("step") or 0))


def _checkpoint(found: checkpoint.Checkpoint) -> dict[str, Any]:
    manifest: Mapping[str, Any] = found.manifest
    return {
        "name": found.path.name,
        "step": found.step,
        "bytes": sum(row["bytes"] for row in manifest.get("files", {}).values()),
        "time": manifest.get("time"),
        "world": manifest.get("world"),
        "nets": list(manifest.get("nets", {})),
    }


def _environment(events: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the newest start said: engine, device, workers, commit, versions."""
    starts = [e for e in events if e.get("event") in ("started", "resumed")]
    if not starts:
        return None
    return {k: v for k, v in starts[-1].items() if k not in ("event", "time", "step")}
