"""The model card beside exported weights: what they are, from which run, and how good."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from eval.history import results_in
from hvdm import config as configs
from hvdm import opening
from hvdm.checkpoint.checkpoint import Checkpoint
from hvdm.config import RunConfig
from hvdm.disk import sha256_of_file

NAME = "README.md"


def write(run: Path, found: Checkpoint, files: Sequence[Path], averaged: bool) -> Path:
    """Everything in it is read from the run; nothing is claimed that is not there."""
    config = opening.read_config(run)
    parts = [
        _front(config),
        f"# {config.recipe}, step {found.step}",
        _what(config, found, averaged),
        "## Files",
        _table(("file", "parameters", "bytes", "sha256"), _files(found, files)),
        "## Evaluations",
        _evaluations(run, found.step),
        "## Use",
        _use(files[0]),
        "## Config",
        f"```yaml\n{yaml.safe_dump(configs.shown(config), sort_keys=False)}```",
    ]
    path = files[0].parent / NAME
    path.write_text("\n\n".join(parts) + "\n")
    return path


def _front(config: RunConfig) -> str:
    tags = ["video-generation", config.recipe]
    return f"---\nlibrary_name: hvdm\ntags: {json.dumps(tags)}\n---"


def _what(config: RunConfig, found: Checkpoint, averaged: bool) -> str:
    manifest = found.manifest
    data = manifest.get("identity", {}).get("data", {})
    rows = {
        "weights": "averaged where the run keeps averages" if averaged else "as trained",
        "samples seen": manifest.get("cursor", {}).get("draw"),
        "clips": f"{config.data.frames} x {config.data.height} x {config.data.width}",
        "data": config.data.path,
        "data manifest": data.get("manifest") or data.get("sha256"),
        "first stage": manifest.get("identity", {}).get("first_stage_weights"),
        "seed": config.seed,
        "engine": manifest.get("engine"),
        "commit": manifest.get("commit"),
        "versions": ", ".join(f"{k} {v}" for k, v in manifest.get("versions", {}).items()),
    }
    return "\n".join(f"- {key}: {value}" for key, value in rows.items() if value is not None)


def _files(found: Checkpoint, files: Sequence[Path]) -> Iterator[Sequence[Any]]:
    for path in files:
        shapes: Mapping[str, list[int]] = found.nets[path.stem]["parameters"]
        yield path.name, f"{_count(shapes):,}", path.stat().st_size, f"`{sha256_of_file(path)}`"


def _count(shapes: Mapping[str, list[int]]) -> int:
    total = 0
    for shape in shapes.values():
        size = 1
        for length in shape:
            size *= length
        total += size
    return total


def _evaluations(run: Path, step: int) -> str:
    rows = [
        (r["protocol"], r.get("detector"), metric, f"{value:.6g}", f"`{r['fingerprint'][:12]}`")
        for r in results_in(run / "evaluations")
        if r.get("step") == step
        for metric, value in r.get("values", {}).items()
    ]
    if not rows:
        return f"None was made of this step; `hvdm evaluate run={run}@{step} protocol=…` makes one."
    return _table(("protocol", "detector", "metric", "value", "fingerprint"), rows)


def _use(file: Path) -> str:
    return (
        f'```python\nfrom safetensors.torch import load_file\nstate = load_file("{file.name}")\n```'
    )


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
