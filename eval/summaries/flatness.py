"""`flatness`: whether depth differs over a map, by the entropy of its histogram (3DGP's NFS)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eval.blocks.tasks import Arrays, BlockJob, BlockTask, about
from eval.clips.subject import Samples, exact_arithmetic, refuse_not_finite
from eval.protocol.kinds import MeasureOptions, Stores, Summary
from eval.protocol.protocol import Protocol
from eval.summaries.novel_views import mean_of
from hvdm.ops.volume import BINS, non_flatness

LAYER = "non_flatness"


@dataclass(frozen=True, kw_only=True)
class Flatness(BlockJob):
    """Maps of places in [0, 1] on rays, of a run."""

    source: Samples

    def particulars(self) -> Mapping[str, Any]:
        return {"histogram": BINS}

    def arrays(self, task: BlockTask) -> Arrays:
        keys, found = [f"sample {index}" for index in task.indices], []
        with exact_arithmetic(self.threads):
            for indices in task.parts():
                places = self.source.drawn(indices, self.device)
                refuse_not_finite(places, keys, "the depth of a map")
                found.append(non_flatness(places.flatten(1)).double().cpu())
        return {LAYER: torch.cat(found).numpy()} | about(task.number, keys, 0, [])


def job(weights_folder: Path, **more: Any) -> Flatness:
    return Flatness(**more)


def summarize(protocol: Protocol, stores: Stores, options: MeasureOptions) -> Summary:
    rows = stores["rows"]
    return Summary({protocol.metric: mean_of(rows.rows(LAYER, list(range(rows.blocks))))})
