"""`views`: what other cameras truly see of a scene, beside what is rendered for them.

Three answers are measured alike: the model's, the pixels moved by their depth (`warp`), and the
picture as it is (`repeated`). Pixels that the picture does not show are counted apart.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eval.blocks.tasks import Arrays, BlockJob, BlockTask, about
from eval.clips.subject import Samples, exact_arithmetic, generated_clips
from eval.numbers.metrics import CAP, PEAK, psnr, ssim
from eval.numbers.statistics import Floats
from eval.protocol.kinds import Measured, MeasureOptions, Stores, Summary
from eval.protocol.protocol import Protocol
from hvdm.recipe import Batch

WARPED = "warped"
"""The kind of sample that moves pixels by their depth."""


@dataclass(frozen=True, kw_only=True)
class ViewComparison(BlockJob):
    """Rows with true views, and what a run makes of them."""

    source: Samples

    def particulars(self) -> Mapping[str, Any]:
        return {"compared": "true views"}

    def arrays(self, task: BlockTask) -> Arrays:
        keys: list[str] = []
        found: dict[str, list[Tensor]] = {}
        shown: list[Tensor] = []
        with exact_arithmetic(self.threads):
            for indices in task.parts():
                rows = self.source.rows(indices, self.device)
                assert rows is not None
                keys += rows.keys
                for name, films in self._answers(rows, indices):
                    shown += list(films)[: self.shown - len(shown)] if name == "" else []
                    for measure, value in _compared(films, rows).items():
                        found.setdefault(measure + name, []).append(value)
        arrays = {name: torch.cat(values).numpy() for name, values in found.items()}
        return arrays | about(task.number, keys, 0, shown)

    def _answers(self, rows: Batch, indices: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
        """uint8 `B V H W C` of each, and what its numbers' names end with."""
        for name, source in (("", self.source), ("_warp", replace(self.source, what=WARPED))):
            made = source.made_of(rows, indices, self.device)
            clips = generated_clips(made, list(rows.keys), self.look)
            yield name, torch.stack(clips.videos)
        yield "_repeated", rows["video"].cpu().expand(-1, rows["views"].shape[1], -1, -1, -1)


def _compared(films: Tensor, rows: Batch) -> dict[str, Tensor]:
    """Of each row, means over views, and over their pixels that the picture shows or does not."""
    true, seen = rows["views"].cpu(), rows["seen"].cpu()
    found = {"psnr": psnr(true, films).values, "ssim": ssim(true, films)}
    error = (true.double() - films.double()).square().mean(4)
    for name, those in (("seen", seen), ("unseen", ~seen)):
        found[f"psnr_{name}"] = _decibels(error, those)
    return found


def _decibels(error: Tensor, those: Tensor) -> Tensor:
    """Of a row's pixels that are meant; NaN where there are none."""
    mean = (error * those).sum((1, 2, 3)) / those.sum((1, 2, 3))
    return (10 * torch.log10(PEAK**2 / mean)).clamp(max=CAP)


def job(weights_folder: Path, **more: Any) -> ViewComparison:
    return ViewComparison(**more)


def summarize(protocol: Protocol, stores: Stores, options: MeasureOptions) -> Summary:
    rows = stores["rows"]
    names = [f"{m}{n}" for n in ("", "_warp", "_repeated") for m in MEASURES]
    columns = {name: rows.rows(name, list(range(rows.blocks))) for name in names}
    gains = {
        f"gain_over{other}": columns["psnr_unseen" if other == "_warp" else "psnr"]
        - columns[f"psnr_unseen{other}" if other == "_warp" else f"psnr{other}"]
        for other in ("_warp", "_repeated")
    }
    return Summary({name: mean_of(column) for name, column in {**columns, **gains}.items()})


MEASURES = ("psnr", "ssim", "psnr_seen", "psnr_unseen")


def mean_of(column: Floats) -> Measured:
    """Over the rows that have such pixels; their spread gives the error."""
    there = column[~np.isnan(column)]
    error = float(there.std(ddof=1) / len(there) ** 0.5) if len(there) > 1 else None
    return Measured(value=float(there.mean()) if len(there) else float("nan"), standard_error=error)
