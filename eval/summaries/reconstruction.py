"""`reconstruction`: how near the decoder comes to what the encoder saw."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eval.blocks.feature_store import FeatureStore
from eval.blocks.tasks import Arrays, BlockJob, BlockTask, about
from eval.clips.subject import Reconstructions, exact_arithmetic
from eval.networks import lpips_distance, weights
from eval.networks.detectors import DetectorChoice
from eval.numbers.metrics import psnr, ssim
from eval.numbers.statistics import Floats
from eval.protocol.kinds import Measured, MeasureOptions, Stores, Summary
from eval.protocol.protocol import Protocol
from eval.summaries import frechet
from hvdm.ops.volume import aligned_error
from hvdm.recipe import Batch

DEPTH_ERROR = "depth_error"
MEASURES = ("psnr", "ssim", "lpips", DEPTH_ERROR)


@dataclass(frozen=True, kw_only=True)
class Comparison(BlockJob):
    """Held-out clips beside what becomes of them; `lpips` is the folder of its weights."""

    source: Reconstructions
    lpips: str | None = None

    def particulars(self) -> Mapping[str, Any]:
        return {"lpips": lpips_distance.sha256(self.lpips) if self.lpips else None}

    def arrays(self, task: BlockTask) -> Arrays:
        """Measures by name; of the first block, the first clips too."""
        keys: list[str] = []
        rows: list[dict[str, Tensor]] = []
        shown: list[tuple[Tensor, Tensor]] = []
        with exact_arithmetic(self.threads):
            for indices in task.parts():
                found, given = self.source.seen(indices, self.look, self.device)
                made, decoded = self.source.remade(found, given, self.look, self.device)
                keys += found.keys
                original, other = torch.stack(found.videos), torch.stack(made.videos)
                rows.append(_compared(self, original, other) | _depth_error(given, decoded))
                shown += list(zip(original, other, strict=True))[: self.shown - len(shown)]
        arrays: Arrays = {
            name: torch.cat([row[name] for row in rows]).numpy() for name in rows[0]
        } | about(task.number, keys, 0, [other for _, other in shown])
        if task.number == 0:
            arrays["original"] = torch.stack([original for original, _ in shown]).numpy()
        return arrays


def _compared(asked: Comparison, original: Tensor, other: Tensor) -> dict[str, Tensor]:
    decibels, exact_frames = psnr(original, other)
    found = {"psnr": decibels, "exact_frames": exact_frames, "ssim": ssim(original, other)}
    if asked.lpips:
        network = lpips_distance.make(asked.lpips, asked.device)
        found["lpips"] = lpips_distance.distance(network, original, other, asked.device)
    return found


def _depth_error(given: Batch, decoded: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Root mean square of depth, with the scale and the shift that make it smallest."""
    if "depth" not in given.fields or "depth" not in decoded:
        return {}
    made, true = (fields["depth"].double().flatten(1) for fields in (decoded, given))
    return {DEPTH_ERROR: aligned_error(made, true).sqrt().cpu()}


def job(weights_folder: Path, **more: Any) -> Comparison:
    folder = None if lpips_distance.available(weights_folder) else str(weights_folder)
    return Comparison(lpips=folder, **more)


def remarks(folder: Path, detector: DetectorChoice | None) -> list[str]:
    found = []
    if lpips_distance.available(folder):
        files = " and ".join(weights.known(name).file for name in lpips_distance.FILES)
        found.append(f"no LPIPS: {files} are not ready in {folder}: hvdm weights list")
    if detector is None:
        found.append("no R-FVD: detector=i3d adds it")
    return found


def summarize(protocol: Protocol, stores: Stores, options: MeasureOptions) -> Summary:
    """Of the clips, and with a detector of the two sets that they are."""
    found = _of_clips(stores["rows"])
    if "real" not in stores:
        return found
    return found.joined(frechet.summarize(replace(protocol, metric="rfvd"), stores, options))


def _of_clips(rows: FeatureStore) -> Summary:
    """Means over clips; each clip counts once, so their spread gives the error."""
    keys = [key for number in range(rows.blocks) for key in rows.keys_of(number)]
    names = [name for name in (*MEASURES, "exact_frames") if name in rows.layers()]
    numbers = list(range(rows.blocks))
    columns = {name: rows.rows(name, numbers) for name in names}
    table = zip(keys, *(columns[name].tolist() for name in names), strict=True)
    return Summary(
        {name: _mean(columns[name]) for name in MEASURES if name in columns},
        details={
            "exact_frames": int(np.sum(columns["exact_frames"])),
            "clips": [_row(key, dict(zip(names, values))) for key, *values in table],
        },
    )


def _mean(column: Floats) -> Measured:
    spread = float(column.std(ddof=1) / len(column) ** 0.5)
    return Measured(value=float(column.mean()), standard_error=spread)


def _row(key: str, values: dict[str, Any]) -> dict[str, Any]:
    return {"key": key, **values, "exact_frames": int(values["exact_frames"])}
