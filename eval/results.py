"""Results on disk, in a line, and side by side."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eval.history import is_result
from eval.numbers.jackknife import LEAST_BLOCKS_OF_AN_INTERVAL, NORMAL_975, jackknife, student_975
from hvdm.config import flat
from hvdm.data.schema import from_json
from hvdm.disk import atomic_write
from hvdm.errors import UserError

Result = Mapping[str, Any]
_NEEDED = {"comparable", "counts", "detector", "fields", "standard_error"}


def path_of(result: Result, out: str | None) -> Path:
    """RUN/evaluations/PROTOCOL-step-STEP-FINGERPRINT.json; `out` is another folder, or a file.

    Without a run: evaluations/PROTOCOL-NAME-CONTENT-FINGERPRINT.json, here.
    """
    protocol = str(result["protocol"]).replace("/", "_")
    if result.get("step") is not None:
        raw = "-raw" if result.get("averaged") is False else ""
        what = f"step-{result['step']:08d}{raw}"
    else:
        what = f"{result['subject']}-{result['weights'][:8]}"
    name = f"{protocol}-{what}-{result['fingerprint'][:8]}.json"
    if out is not None:
        return Path(out) if out.endswith(".json") else Path(out) / name
    return Path(result.get("run") or ".") / "evaluations" / name


def write(result: Result, out: str | None) -> Path:
    """The file is whole or not there; the same measurement again replaces it."""
    path = path_of(result, out)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(result, indent=1) + "\n")
    return path


def read(path: str | Path) -> dict[str, Any]:
    """A result from its file."""
    try:
        found = from_json(Path(path).read_bytes())
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give a file that `hvdm evaluate` "
            "wrote, such as RUN/evaluations/….json"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); give a result of `hvdm evaluate`") from None
    if not isinstance(found, dict) or "fingerprint" not in found:
        raise UserError(f"{path} is not a result of `hvdm evaluate`: it has no fingerprint")
    if not is_result(found) or not found.keys() >= _NEEDED:
        raise UserError(f"{path} is not as `hvdm evaluate` wrote it; evaluate anew")
    return found


def line(result: Result) -> str:
    """What the number is, in one line."""
    parts = ", ".join(_number(result, name) for name in result["values"])
    mark = "" if result["comparable"] else f"  [detector={result['detector']}: not comparable]"
    clips = result["counts"]["clips"]
    step = result.get("step")
    who = result["subject"] if step is None else f"step {step}"
    who += " raw weights" if result.get("averaged") is False else ""
    dear = ", ".join([f"{clips} clips", *cost(result)])
    return f"{result['protocol']} {who}: {parts} ({dear}){mark}"


def cost(result: Result) -> list[str]:
    """What a sample takes, in words: bits, calls of networks, multiply-adds."""
    bits, dear = result.get("bits_per_sample"), result.get("cost")
    told = [f"{bits:.4g} bits each"] if bits is not None else []
    if dear:
        told += [f"{count} calls of {name}" for name, count in dear["calls"].items()]
        told.append(f"{dear['multiply_adds']:.4g} multiply-adds each")
    return told


def _number(result: Result, name: str) -> str:
    error, debiased = result["standard_error"].get(name), result["debiased"].get(name)
    text = f"{name} {result['values'][name]:.4g}"
    text += f" ± {error:.2g}" if error is not None else ""
    text += f" (debiased {debiased:.4g})" if debiased is not None else ""
    bias = result["null_bias"].get(name)
    return text + (f" (sample-size bias {bias:.3g})" if bias is not None else "")


def compare(a: Result, b: Result, force: bool = False) -> dict[str, Any]:
    """b against a, where both were measured alike; where not, only if told to."""
    difference = None if a["fingerprint"] == b["fingerprint"] else _difference(a, b)
    if difference and not force:
        raise UserError(f"{difference}; force=true compares them all the same")
    names = [name for name in a["values"] if name in b["values"]]
    if not names:
        raise UserError(f"{a['protocol']} and {b['protocol']} have no number in common")
    values = {name: _change(a, b, name, paired=difference is None) for name in names}
    sides = {
        name: {key: side.get(key) for key in ("run", "step", "weights", "averaged", "subject")}
        for name, side in (("a", a), ("b", b))
    }
    return {
        "protocol": a["protocol"],
        "detector": a["detector"],
        "comparable": a["comparable"] and b["comparable"] and difference is None,
        "warning": difference,
        "fingerprint": a["fingerprint"],
        **sides,
        "values": values,
    }


def _difference(a: Result, b: Result) -> str:
    old, new = dict(flat(a["fields"])), dict(flat(b["fields"]))
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key):
            return (
                f"these numbers do not compare: {key} is {old.get(key)!r} in the first and "
                f"{new.get(key)!r} in the second; evaluate both alike"
            )
    return "these numbers do not compare: their fingerprints differ; evaluate both anew"


def _change(a: Result, b: Result, name: str, paired: bool) -> dict[str, Any]:
    first, second = a["values"][name], b["values"][name]
    found = _paired(a, b, name) if paired else None
    error, reach = found or (_joint_error(a, b, name), None)
    if reach is None and error is not None:
        reach = NORMAL_975
    difference = second - first
    low_high = None if error is None or reach is None else [
        difference - reach * error, difference + reach * error
    ]  # fmt: skip
    return {
        "a": first,
        "b": second,
        "difference": difference,
        "standard_error": error,
        "interval": low_high,
        "paired": found is not None,
    }


def _paired(a: Result, b: Result, name: str) -> tuple[float, float] | None:
    """The error of the difference, and how far its interval reaches in errors.

    Over the clips' own differences, or over the blocks that both left out: the clips are the same,
    so their spread cancels.
    """
    rows = [{r["key"]: r[name] for r in side.get("clips", ()) if name in r} for side in (a, b)]
    if len(rows[0]) > 1 and rows[0].keys() == rows[1].keys():
        changes = np.array([rows[1][key] - rows[0][key] for key in rows[0]])
        return float(changes.std(ddof=1) / len(changes) ** 0.5), NORMAL_975
    return _paired_blocks(a, b, name)


def _paired_blocks(a: Result, b: Result, name: str) -> tuple[float, float] | None:
    left_out = [
        {r["block"]: r for r in side.get("blocks", ()) if r.get("of") == name} for side in (a, b)
    ]
    blocks = sorted(left_out[0])
    if len(blocks) < LEAST_BLOCKS_OF_AN_INTERVAL or left_out[0].keys() != left_out[1].keys():
        return None
    changes = [left_out[1][k]["without"] - left_out[0][k]["without"] for k in blocks]
    sizes = [left_out[0][k]["clips"] for k in blocks]
    whole = b["values"][name] - a["values"][name]
    return jackknife(whole, changes, sizes).standard_error, student_975(len(blocks) - 1)


def _joint_error(a: Result, b: Result, name: str) -> float | None:
    errors = [side["standard_error"].get(name) for side in (a, b)]
    if None in errors:
        return None
    return float(sum(error**2 for error in errors) ** 0.5)
