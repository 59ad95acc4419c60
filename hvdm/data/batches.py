"""Rows put together as batches, and the log of which sample each draw was."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from hvdm.data.order import MicroBatch
from hvdm.data.rows import Row
from hvdm.errors import RunError
from hvdm.recipe import Batch


def log_keys(folder: Path, rank: int, micro_batches: Sequence[Batch]) -> None:
    """One line for each step of a rank: the draws and the samples that they were."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        [draw, key]
        for batch in micro_batches
        for draw, key, weight in zip(batch.draws, batch.keys, batch.weight.tolist(), strict=True)
        if weight
    ]
    with open(folder / f"rank-{rank}.jsonl", "a") as file:
        file.write(json.dumps(rows) + "\n")


def read_keys(folder: Path) -> dict[int, str]:
    """The sample of each draw, from the logs of all ranks; a draw that was two is an error."""
    found: dict[int, str] = {}
    for path in sorted(folder.glob("rank-*.jsonl")):
        for line in path.read_text().splitlines():
            for draw, key in json.loads(line):
                if found.setdefault(draw, key) != key:
                    raise RunError(f"{folder}: draw {draw} was {found[draw]} and later {key}")
    return found


def collate(rows: Sequence[Row], weight: Sequence[float]) -> Batch:
    """Rows as tensors, one for each field."""
    names = rows[0].fields
    odd = next((row for row in rows if row.fields.keys() != names.keys()), None)
    if odd is not None:
        raise RunError(
            f"{odd.key} has {', '.join(odd.fields)} and {rows[0].key} {', '.join(names)}: "
            "all samples of a run have the same fields"
        )
    fields = {name: _stack(name, rows) for name in names}
    keys, draws = tuple(row.key for row in rows), tuple(row.draw for row in rows)
    return Batch(fields, keys, draws, torch.tensor(weight, dtype=torch.float32))


def _stack(name: str, rows: Sequence[Row]) -> torch.Tensor:
    return torch.from_numpy(np.stack([row.fields[name] for row in rows]))


def micro_batch(rows: Mapping[int, Row], part: MicroBatch) -> Batch:
    return collate([rows[row] for row, _ in part], [weight for _, weight in part])
