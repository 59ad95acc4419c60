"""The numbers of `features`: of tables `N D` that anyone may have extracted."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from eval.numbers.jackknife import estimate, extrapolate
from eval.numbers.statistics import Floats, Moments, factor_distance, frechet_distance, moments
from eval.protocol.kinds import MeasureOptions, Summary
from eval.protocol.protocol import Protocol
from eval.summaries.frechet import block_rows_of, with_error
from eval.summaries.scores import kid_of, precision_of

WIDE = 1024
"""From more dimensions on, fewer blocks: leaving one out costs an eigenvalue problem."""


class Table(NamedTuple):
    path: str
    rows: Floats
    sha256: str

    def identity(self) -> dict[str, Any]:
        return {"what": "features", "sha256": self.sha256, "shape": list(self.rows.shape)}


def group_count(real: Table, generated: Table) -> int:
    most = 10 if real.rows.shape[1] > WIDE else 20
    return min(most, len(real.rows), len(generated.rows))


def summarize(protocol: Protocol, tables: Mapping[str, Table], options: MeasureOptions) -> Summary:
    real, generated, name = tables["real"], tables["generated"], protocol.metric
    count = group_count(real, generated)
    a, b = (np.array_split(side.rows, count) for side in (real, generated))
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
    rows = block_rows_of([len(part) for part in a], name, found.left_out)
    return Summary(
        {name: with_error(found), **kid.measured, **shares.measured},
        warnings=(*((found.reason,) if found.reason else ()), *kid.warnings, *shares.warnings),
        details={
            "features": real.rows.shape[1],
            "subsets": kid.details["subsets"],
            "blocks": [*rows, *kid.details["blocks"], *shares.details["blocks"]],
            **({"extrapolated": {name: line._asdict() if line else None}}
               if options.extrapolate else {}),
        },
    )  # fmt: skip
