"""What evaluations leave beside a run: a CSV of all of them, scalars, and which step is best."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hvdm import config as configs
from hvdm.data.schema import from_json
from hvdm.disk import atomic_write
from hvdm.events import TensorBoard
from hvdm.opening import Opened

COLUMNS = (
    "time", "protocol", "detector", "comparable", "step", "weights", "metric", "value",
    "standard_error", "debiased", "low", "high", "null_bias", "clips", "fingerprint",
)  # fmt: skip
HIGHER_IS_BETTER = ("psnr", "ssim", "precision", "recall", "is")


def record(opened: Opened, result: Mapping[str, Any]) -> None:
    folder = opened.run / "evaluations"
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "history.csv", table(results_in(folder)))
    scalars = scalars_of(result)
    log = opened.config.log
    if log.tensorboard:
        board = TensorBoard(opened.run)
        board.metrics(scalars)
        board.close()
    if log.wandb:
        _weights_and_biases(opened, scalars)


def results_in(folder: Path) -> list[dict[str, Any]]:
    """Every result of a run, oldest first."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = from_json(path.read_bytes())
        except ValueError:
            continue
        if is_result(content):
            found.append(content)
    return sorted(found, key=lambda result: result.get("time", 0))


_KINDS: Mapping[str, Any] = {
    "step": int | None, "time": int | float, "controls": dict | None,
    **dict.fromkeys(("warnings", "clips", "blocks"), list),
    **dict.fromkeys(("fingerprint", "protocol"), str),
    **dict.fromkeys(("values", "counts", "fields"), dict),
    **dict.fromkeys(("standard_error", "debiased", "null_bias", "interval"), dict),
}  # fmt: skip


def is_result(content: Any) -> bool:
    """Of the kinds that a result of ours has: a run folder may be anybody's."""
    if not isinstance(content, dict):
        return False
    content = {"clips": [], "blocks": [], **content}
    return (
        {"fingerprint", "protocol", "values"} <= content.keys()
        and all(isinstance(v, _KINDS[k]) for k, v in content.items() if k in _KINDS)
        and all(map(_is_number, content["values"].values()))
        and all(_is_number(v, absent=True) for k in _SPREADS for v in content.get(k, {}).values())
        and all(_is_clip(row, content["values"]) for row in content["clips"])
        and all(map(_is_block, content["blocks"]))
    )


_SPREADS = ("standard_error", "debiased", "null_bias")


def _is_number(value: Any, absent: bool = False) -> bool:
    if isinstance(value, int):
        return abs(value) < 2**63
    return isinstance(value, float) or absent and value is None


def _is_clip(row: Any, names: Iterable[str]) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("key"), str):
        return False
    return all(_is_number(row[name]) for name in names if name in row)


def _is_block(row: Any) -> bool:
    """What was measured without it, of how many clips."""
    return (
        isinstance(row, dict)
        and all(isinstance(row.get(name), int) for name in ("block", "clips"))
        and row["clips"] > 0
        and _is_number(row.get("without"))
    )


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """One row for each number."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for result in found:
        for name in result["values"]:
            writer.writerow(_row(result, name))
    return out.getvalue()


def _row(result: Mapping[str, Any], name: str) -> dict[str, Any]:
    low, high = result.get("interval", {}).get(name) or (None, None)
    values = {key: result.get(key, {}).get(name) for key in
              ("standard_error", "debiased", "null_bias")}  # fmt: skip
    return {
        "time": round(result.get("time", 0), 3),
        "protocol": result["protocol"],
        "detector": result.get("detector"),
        "comparable": result.get("comparable"),
        "step": result.get("step"),
        "weights": kind_of(result),
        "metric": name,
        "value": result["values"][name],
        "low": low,
        "high": high,
        "clips": result["counts"]["clips"],
        "fingerprint": result["fingerprint"],
        **values,
    }


def kind_of(result: Mapping[str, Any]) -> str:
    """Averaged weights, or those that were trained."""
    return "ema" if result.get("averaged") else "raw"


def scalars_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """`evaluation/PROTOCOL/METRIC` by step, with the error beside the value."""
    raw = "-raw" if result.get("averaged") is False else ""
    place = f"evaluation/{result['protocol']}{raw}"
    scalars: dict[str, Any] = {"step": result["step"]}
    for name, value in result["values"].items():
        scalars[f"{place}/{name}"] = value
        for key in ("standard_error", "debiased"):
            more = result.get(key, {}).get(name)
            if more is not None:
                scalars[f"{place}/{name}_{key}"] = more
    return scalars


def _weights_and_biases(opened: Opened, scalars: Mapping[str, Any]) -> None:
    """In a run of its own, grouped with the training run: steps may come after later ones."""
    import wandb

    name = opened.run.name
    run = wandb.init(
        dir=str(opened.run), id=f"{name}-evaluation", name=f"{name} evaluation", group=name,
        resume="allow", config=configs.shown(opened.config),
    )  # fmt: skip
    run.define_metric("evaluation/*", step_metric="training_step")
    values = {key: value for key, value in scalars.items() if key != "step"}
    run.log({"training_step": scalars["step"], **values})
    run.finish()


def best(found: Sequence[Mapping[str, Any]], protocol: str, metric: str) -> dict[str, Any] | None:
    """The step with the best value among results that compare: those like the newest one."""
    named = [r for r in found if r["protocol"] == protocol and metric in r["values"]]
    alike = [r for r in named if r["fingerprint"] == named[-1]["fingerprint"]]
    if not alike:
        return None
    sign = -1 if metric in HIGHER_IS_BETTER else 1
    chosen = min(alike, key=lambda r: (sign * r["values"][metric], -r["step"]))
    return {
        "protocol": protocol,
        "metric": metric,
        "step": chosen["step"],
        "weights": kind_of(chosen),
        "value": chosen["values"][metric],
        "fingerprint": chosen["fingerprint"],
    }
