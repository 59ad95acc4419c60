"""`seconds`: how long a batch of samples takes, as papers time it, and a sample by itself."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from eval.blocks.tasks import Arrays, BlockJob, BlockTask, about
from eval.clips.subject import Samples, exact_arithmetic
from eval.numbers.statistics import Floats
from eval.protocol.kinds import Measured, MeasureOptions, Stores, Summary
from eval.protocol.protocol import Protocol
from hvdm.recipe import Batch

WARM_UPS = 10
BATCH, ALONE = "batch", "alone"


@dataclass(frozen=True, kw_only=True)
class Timing(BlockJob):
    """Batches that are drawn again and again: as many as there are clips, in one block."""

    source: Samples

    def particulars(self) -> Mapping[str, Any]:
        place = {"device": self.device.split(":")[0], "threads": self.threads}
        return {"timed": {**place, "warm_ups": WARM_UPS}}

    def arrays(self, task: BlockTask) -> Arrays:
        """Seconds of each batch, and of each sample that is drawn alone."""
        count = len(task.indices)
        with exact_arithmetic(self.threads):
            found = {
                name: np.asarray(self._seconds(size, count))
                for name, size in ((BATCH, self.batch), (ALONE, 1))
            }
        return found | about(task.number, [f"repeat {k}" for k in task.indices], 0, [])

    def _seconds(self, size: int, count: int) -> list[float]:
        rows = self.source.rows(tuple(range(size)), self.device)
        for _ in range(WARM_UPS):
            self._once(rows, size)
        return [self._once(rows, size) for _ in range(count)]

    def _once(self, rows: Batch | None, size: int) -> float:
        began = time.perf_counter()
        self.source.made_of(rows, tuple(range(size)), self.device)
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - began


def summarize(protocol: Protocol, stores: Stores, options: MeasureOptions) -> Summary:
    rows = stores["rows"]
    batch, alone = (rows.rows(name, list(range(rows.blocks))) for name in (BATCH, ALONE))
    return Summary(
        {
            protocol.metric: _mean(batch),
            "seconds_per_sample": _median(batch / protocol.batch),
            "seconds_alone": _median(alone),
        }
    )


def _mean(seconds: Floats) -> Measured:
    error = float(seconds.std(ddof=1) / len(seconds) ** 0.5)
    return Measured(value=float(seconds.mean()), standard_error=error)


def _median(seconds: Floats) -> Measured:
    return Measured(value=median(seconds.tolist()), standard_error=None)


def job(weights_folder: Path, **more: Any) -> Timing:
    return Timing(**more)
