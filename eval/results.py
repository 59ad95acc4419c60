"""Results on disk, in a line, and side by side."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from hvdm.data.schema import atomic_write
from hvdm.errors import UserError

Result = Mapping[str, Any]


def path_of(result: Result, out: str | None) -> Path:
    """RUN/evaluations/PROTOCOL-step-STEP-FINGERPRINT.json; `out` is another folder, or a file."""
    protocol = str(result["protocol"]).replace("/", "_")
    name = f"{protocol}-step-{result['step']:08d}-{result['fingerprint'][:8]}.json"
    if out is None:
        return Path(result["run"]) / "evaluations" / name
    return Path(out) if out.endswith(".json") else Path(out) / name


def write(result: Result, out: str | None) -> Path:
    """The file is whole or not there; the same measurement again replaces it."""
    path = path_of(result, out)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(result, indent=1).encode() + b"\n")
    return path


def read(path: str | Path) -> dict[str, Any]:
    """A result from its file."""
    try:
        found = json.loads(Path(path).read_text())
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give a file that `hvdm evaluate` "
            "wrote, such as RUN/evaluations/….json"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); give a result of `hvdm evaluate`") from None
    if not isinstance(found, dict) or "fingerprint" not in found:
        raise UserError(f"{path} is not a result of `hvdm evaluate`: it has no fingerprint")
    return found


def line(result: Result) -> str:
    """What the number is, in one line."""
    parts = ", ".join(_number(result, name) for name in result["values"])
    mark = "" if result["comparable"] else f"  [detector={result['detector']}: not comparable]"
    clips = result["counts"]["clips"]
    return f"{result['protocol']} step {result['step']}: {parts} ({clips} clips){mark}"


def _number(result: Result, name: str) -> str:
    error, debiased = result["standard_error"].get(name), result["debiased"].get(name)
    text = f"{name} {result['values'][name]:.4g}"
    text += f" ± {error:.2g}" if error is not None else ""
    text += f" (debiased {debiased:.4g})" if debiased is not None else ""
    bias = result["null_bias"].get(name)
    return text + (f" (sample-size bias {bias:.3g})" if bias is not None else "")


def compare(a: Result, b: Result) -> dict[str, Any]:
    """b against a, where both were measured alike."""
    if a["fingerprint"] != b["fingerprint"]:
        raise UserError(_difference(a, b))
    values = {name: _change(a, b, name) for name in a["values"]}
    sides = {
        name: {key: side[key] for key in ("run", "step", "weights")}
        for name, side in (("a", a), ("b", b))
    }
    return {
        "protocol": a["protocol"],
        "detector": a["detector"],
        "comparable": a["comparable"],
        "fingerprint": a["fingerprint"],
        **sides,
        "values": values,
    }


def _difference(a: Result, b: Result) -> str:
    old, new = dict(_flat(a["fields"])), dict(_flat(b["fields"]))
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key):
            return (
                f"these numbers do not compare: {key} is {old.get(key)!r} in the first and "
                f"{new.get(key)!r} in the second; evaluate both alike"
            )
    return "these numbers do not compare: their fingerprints differ; evaluate both anew"


def _flat(value: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{where}{key}.")
        else:
            yield f"{where}{key}", inner


def _change(a: Result, b: Result, name: str) -> dict[str, float | None]:
    first, second = a["values"][name], b["values"][name]
    error = _paired_error(a, b, name)
    if error is None:
        error = _joint_error(a, b, name)
    return {"a": first, "b": second, "difference": second - first, "standard_error": error}


def _paired_error(a: Result, b: Result, name: str) -> float | None:
    """Over the clips' own differences: the same clips, so their spread cancels."""
    rows = [{r["key"]: r[name] for r in side.get("clips", ()) if name in r} for side in (a, b)]
    if len(rows[0]) < 2 or rows[0].keys() != rows[1].keys():
        return None
    changes = torch.tensor([rows[1][k] - rows[0][k] for k in rows[0]], dtype=torch.float64)
    return float(changes.std() / len(changes) ** 0.5)


def _joint_error(a: Result, b: Result, name: str) -> float | None:
    errors = [side["standard_error"].get(name) for side in (a, b)]
    if None in errors:
        return None
    return float(sum(error**2 for error in errors) ** 0.5)
