"""`report.html` of a run: one file that loads nothing; and the same facts as JSON."""

import json
import time
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import yaml

from eval import page
from eval.curves import series
from hvdm.data.schema import atomic_write
from hvdm.errors import UserError
from hvdm.report import read_lines
from hvdm.train import checkpoint

PICTURES, FILMS = (".png", ".jpg", ".gif"), (".mp4", ".webm")


def write_report(run: Path) -> Path:
    """RUN/report.html, whatever of the run is there."""
    run = _existing(run)
    facts, rows = as_json(run), read_lines(run / "metrics.jsonl")
    found = run / "samples"
    pictures = _newest(found, PICTURES)
    films = _newest(found, FILMS)
    sections = [
        page.summary(facts),
        page.curves(series(rows)),
        page.evaluations(facts["evaluations"]),
        page.pictures(pictures, found),
        page.films(films, found),
        page.checkpoints(facts["checkpoints"]),
        page.events(facts["events"]),
        page.config(facts["config"]),
    ]
    path = run / "report.html"
    made = time.strftime("%Y-%m-%d %H:%M:%S")
    atomic_write(path, page.document(escape(run.resolve().name), made, sections).encode())
    return path


def as_json(run: Path) -> dict[str, Any]:
    """What the report shows, for programs."""
    run = _existing(run)
    rows = read_lines(run / "metrics.jsonl")
    return {
        "run": str(run),
        "config": _config(run),
        "step": max((row["step"] for row in rows if "step" in row), default=None),
        "steps": rows[-1].get("steps") if rows else None,
        "last": rows[-1] if rows else None,
        "metrics": {name: {"points": len(p), "last": p[-1][1]} for name, p in series(rows).items()},
        "events": read_lines(run / "events.jsonl"),
        "evaluations": _evaluations(run),
        "checkpoints": [_checkpoint(found) for found in checkpoint.listed(run)],
        "samples": [str(p.relative_to(run)) for p in _files(run / "samples", PICTURES + FILMS)],
    }


def _existing(run: Path | str) -> Path:
    if not Path(run).is_dir():
        raise UserError(f"{run} is no run folder: give the folder of a run, such as runs/NAME")
    return Path(run)


def _config(run: Path) -> dict[str, Any] | None:
    path = run / "config.yaml"
    try:
        found = yaml.safe_load(path.read_text()) if path.is_file() else None
    except yaml.YAMLError:
        return None
    return found if isinstance(found, dict) else None


def _evaluations(run: Path) -> list[dict[str, Any]]:
    """Results by protocol and step, without their lists of clips and blocks."""
    found = []
    for path in sorted((run / "evaluations").glob("*.json")):
        try:
            content = json.loads(path.read_text())
        except ValueError:
            continue
        if isinstance(content, dict) and "fingerprint" in content:
            slim = {k: v for k, v in content.items() if k not in ("clips", "blocks")}
            found.append({**slim, "file": str(path.relative_to(run))})
    return sorted(found, key=lambda r: (r.get("protocol", ""), r.get("step", 0)))


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


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files that are whole: what is being written begins with a dot."""
    files = (path for path in folder.rglob("*") if path.suffix in suffixes and path.is_file())
    return sorted(path for path in files if not path.name.startswith("."))


def _newest(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(_files(folder, suffixes), key=lambda p: (p.stat().st_mtime, p.name), reverse=True)
