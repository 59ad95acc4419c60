"""`features`: two .npy files of features `N D`, whoever extracted them from whatever."""

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from eval import results
from eval.catalogue import kind_of
from eval.plans import Say
from eval.protocol.kinds import MeasureOptions, Summary
from eval.protocol.protocol import Protocol, find, fingerprint
from eval.protocol.request import Request
from eval.summaries.tables import Table, group_count
from hvdm.data.arrays import read_array
from hvdm.data.decode import CannotDecode
from hvdm.errors import RunError, UserError
from hvdm.run.run import versions


def read(given: str, side: str) -> Table:
    """The file, checked: a number for each feature of at least two samples."""
    path = Path(given).expanduser()
    try:
        array = read_array(path, f"{side}={given}")
    except CannotDecode as error:
        raise UserError(f"{error}: expected .npy") from None
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        kind = f"{array.dtype} {'x'.join(map(str, array.shape))}"
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


def evaluate_features(request: Request, say: Say) -> dict[str, Any]:
    protocol = find(request.protocol)
    if request.run or not (request.real and request.generated):
        raise UserError(f"protocol={protocol.full_name} takes real=A.npy and generated=B.npy")
    tables = {"real": read(request.real, "real"), "generated": read(request.generated, "generated")}
    check_pair(**tables)
    began = time.monotonic()
    summary = kind_of(protocol).summarize(protocol, tables, MeasureOptions(request.extrapolate))
    result = _features_result(request, protocol, summary, **tables)
    result["seconds"] = round(time.monotonic() - began, 3)
    result["path"] = str(results.write(result, request.out))
    for text in (*result["warnings"], results.line(result)):
        say(text)
    return result


def _features_result(
    request: Request, protocol: Protocol, summary: Summary, real: Table, generated: Table
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
