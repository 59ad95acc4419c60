"""`features`: two .npy files of features `N D`, whoever extracted them from whatever."""

import hashlib
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval import results
from eval.numbers.jackknife import estimate, extrapolate
from eval.numbers.statistics import Floats, Moments, factor_distance, frechet_distance, moments
from eval.plans import Say
from eval.protocol.kinds import MeasureOptions, Summary
from eval.protocol.protocol import Protocol, find, fingerprint
from eval.protocol.request import Request
from eval.summaries.frechet import block_rows_of, with_error
from eval.summaries.scores import kid_of, precision_of
from hvdm.errors import RunError, UserError
from hvdm.run.run import versions

NAME = "frechet"
WIDE = 1024
"""From more dimensions on, fewer blocks: leaving one out costs an eigenvalue problem."""


class Table(NamedTuple):
    path: str
    rows: Floats
    sha256: str

    def identity(self) -> dict[str, Any]:
        return {"what": "features", "sha256": self.sha256, "shape": list(self.rows.shape)}


def read(given: str, side: str) -> Table:
    """The file, checked: a number for each feature of at least two samples."""
    path = Path(given).expanduser()
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{side}={given} cannot be read as .npy ({error})") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f":
        kind = (
            f"{array.dtype} {'x'.join(map(str, array.shape))}" if hasattr(array, "dtype") else "…"
        )
        raise UserError(f"{side}={given}: expected floats N D, got {kind}")
    if len(array) < 2:
        raise UserError(f"{side}={given} has {len(array)} sample: a spread needs at least 2")
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise RunError(f"{side}={given}: row {int(np.argmin(finite))} is not finite")
    digest = hashlib.sha256(array.tobytes() + str((array.dtype, array.shape)).encode())
    return Table(given, array.astype(np.float64), digest.hexdigest())


def check_pair(real: Table, generated: Table) -> None:
    if real.rows.shape[1] != generated.rows.shape[1]:
        raise UserError(
            f"{real.path} has {real.rows.shape[1]} features and {generated.path} "
            f"{generated.rows.shape[1]}: they come from different networks"
        )
    if real.sha256 == generated.sha256:
        raise UserError(f"{real.path} and {generated.path} hold the same features")


def groups_of(rows: Floats, count: int) -> list[Floats]:
    return np.array_split(rows, count)


def group_count(real: Table, generated: Table) -> int:
    most = 10 if real.rows.shape[1] > WIDE else 20
    return min(most, len(real.rows), len(generated.rows))


def summarize(real: Table, generated: Table, options: MeasureOptions) -> Summary:
    count = group_count(real, generated)
    a, b = groups_of(real.rows, count), groups_of(generated.rows, count)
    real_blocks, other_blocks = ({k: moments(v) for k, v in enumerate(side)} for side in (a, b))

    def distance(first: Moments, second: Moments, left_out: int | None) -> float:
        if min(first.count, second.count) > first.dimensions:
            return frechet_distance(first, second)
        kept = [k for k in range(count) if k != left_out]
        x, y = (np.concatenate([side[k] for k in kept]) for side in (a, b))
        return factor_distance(x, y)

    found = estimate(real_blocks, other_blocks, distance=distance)
    kid, shares = kid_of(a, b), precision_of(a, b)
    line = extrapolate(real_blocks, other_blocks) if options.extrapolate else None
    rows = block_rows_of([len(part) for part in a], NAME, found.left_out)
    return Summary(
        {NAME: with_error(found), **kid.measured, **shares.measured},
        warnings=(*((found.reason,) if found.reason else ()), *kid.warnings, *shares.warnings),
        details={
            "features": real.rows.shape[1],
            "subsets": kid.details["subsets"],
            "blocks": [*rows, *kid.details["blocks"], *shares.details["blocks"]],
            **({"extrapolated": {NAME: line._asdict() if line else None}}
               if options.extrapolate else {}),
        },
    )  # fmt: skip


def evaluate_features(request: Request, say: Say) -> dict[str, Any]:
    protocol = find(request.protocol)
    if request.run or not (request.real and request.generated):
        raise UserError(f"protocol={protocol.full_name} takes real=A.npy and generated=B.npy")
    real, generated = (
        read(given, side)
        for side, given in (("real", request.real), ("generated", request.generated))
    )
    check_pair(real, generated)
    began = time.monotonic()
    summary = summarize(real, generated, MeasureOptions(request.extrapolate))
    result = _features_result(request, protocol, real, generated, summary)
    result["seconds"] = round(time.monotonic() - began, 3)
    result["path"] = str(results.write(result, request.out))
    for text in (*result["warnings"], results.line(result)):
        say(text)
    return result


def _features_result(
    request: Request,
    protocol: Protocol,
    real: Table,
    generated: Table,
    summary: Summary,
) -> dict[str, Any]:
    fields = {
        "protocol": protocol.full_name,
        "covariance": protocol.covariance,
        "data": real.identity(),
        "samples": len(generated.rows),
        "groups": group_count(real, generated),
    }
    return {
        "protocol": protocol.full_name,
        "about": protocol.about,
        "fingerprint": fingerprint(fields),
        "run": None,
        "step": None,
        "averaged": None,
        "subject": Path(str(request.generated)).stem,
        "weights": generated.sha256,
        "detector": None,
        "comparable": True,
        "comparable_with": None,
        **summary.columns(),
        "warnings": list(summary.warnings),
        "generated": "features",
        "counts": {"clips": len(generated.rows), "real": len(real.rows), "asked": None},
        "fields": fields,
        "manifest": real.sha256,
        "time": time.time(),
        "versions": versions(),
        **summary.details,
    }
