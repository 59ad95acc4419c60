"""One block of a set of clips: read, shown to a detector, and described by arrays."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eval.detectors import FEATURES, Choice, Detector, make
from eval.sources import Clips, Look, Source
from eval.subject import decoder_versions, exact, refuse_not_finite
from hvdm import config as configs
from hvdm import rng
from hvdm.errors import UserError

SHUFFLED = "shuffled"
SHOWN = 4
FORMAT = 1
"""Changes when blocks of older code can no longer be taken for ours."""
Arrays = dict[str, npt.NDArray[Any]]


class Payload(NamedTuple):
    """A block's arrays: features by layer, `keys` of its clips, `short`, `preview`."""

    number: int
    arrays: Arrays


@dataclass(frozen=True)
class Extraction:
    """A set of clips seen by a detector; equal ones are done once and used by all who ask."""

    source: Source
    look: Look
    detector: Choice
    clips: int
    block: int
    batch: int
    window: tuple[int, int] | None = None
    shuffled: bool = False
    device: str = "cpu"
    threads: int = 1

    def key(self) -> str:
        """sha256 of all that the arrays depend on, and of no path."""
        return configs.digest(
            {
                "format": FORMAT,
                "source": self.source.identity(),
                "look": configs.plain(self.look),
                "detector": make(self.detector).fields(),
                "takes": self.detector.takes,
                **{k: getattr(self, k) for k in ("clips", "block", "batch", "window", "shuffled")},
                "device": self.device.split(":")[0],
                "threads": self.threads,
                "decoder": decoder_versions(),
                "torch": metadata.version("torch"),
            }
        )

    def indices(self) -> list[int]:
        """Which videos, in a fixed random order: data sets are often sorted by class."""
        return chosen(self.source.count(), self.clips)

    def blocks(self) -> int:
        return -(-self.clips // self.block)

    def tasks(self) -> list["Task"]:
        order = self.indices()
        at = [k * self.block for k in range(self.blocks())]
        return [Task(self, k, tuple(order[a : a + self.block])) for k, a in enumerate(at)]


def chosen(there: int | None, count: int) -> list[int]:
    if there is None:
        return list(range(count))
    order = rng.numpy_generator("videos of an evaluation", there).permutation(there)
    return [int(index) for index in order[:count]]


@dataclass(frozen=True)
class Task:
    """One block: all that a worker needs, small enough to send anywhere."""

    extraction: Extraction
    number: int
    indices: tuple[int, ...]

    def parts(self) -> Iterator[tuple[int, ...]]:
        """The rows of each forward pass."""
        batch = self.extraction.batch
        for at in range(0, len(self.indices), batch):
            yield self.indices[at : at + batch]

    def run(self) -> Payload:
        return Payload(self.number, extract(self))


def extract(task: Task) -> Arrays:
    """Features of a block by layer, of its clips in their order."""
    asked = task.extraction
    detector = make(asked.detector, asked.device)
    found: dict[str, list[npt.NDArray[Any]]] = {}
    keys: list[str] = []
    preview: list[Tensor] = []
    short = 0
    with exact(asked.threads):
        for indices in task.parts():
            clips = asked.source.read(indices, asked.look, asked.device)
            short += len(clips.short)
            keys += clips.keys
            preview += clips.videos[: SHOWN - len(preview)]
            for layer, rows in _seen(asked, detector, clips):
                found.setdefault(layer, []).append(rows)
    arrays: Arrays = {layer: np.concatenate(rows) for layer, rows in found.items()}
    return arrays | about(task.number, keys, short, preview)


def about(number: int, keys: list[str], short: int, preview: list[Tensor]) -> Arrays:
    """What a block says of its clips besides features."""
    arrays: Arrays = {"keys": np.asarray(keys, dtype=np.str_), "short": np.asarray(short)}
    if number == 0 and preview and len({video.shape for video in preview}) == 1:
        arrays["preview"] = torch.stack(preview).numpy()
    return arrays


def _seen(asked: Extraction, detector: Detector, clips: Clips) -> Iterator[tuple[str, Any]]:
    """Features of a few clips, in one pass where they are of one shape."""
    count = len(clips.videos)
    alike = len({video.shape for video in clips.videos}) == 1
    for part in [slice(0, count)] if alike else [slice(i, i + 1) for i in range(count)]:
        video, keys = torch.stack(clips.videos[part]), clips.keys[part]
        for name, shown in _views(asked, video, keys):
            for layer, rows in detector.extract(shown).items():
                refuse_not_finite(rows, keys, f"a feature of its {name or 'own'} frames")
                if name != SHUFFLED:
                    yield layer + name, rows
                elif layer == FEATURES:
                    yield SHUFFLED, rows


def _views(asked: Extraction, video: Tensor, keys: list[str]) -> Iterator[tuple[str, Tensor]]:
    """The clips as they are, or by windows; and with their frames shuffled."""
    if asked.window is None:
        yield "", video
    else:
        size, step = asked.window
        if video.shape[1] < size:
            raise UserError(f"{keys[0]} has {video.shape[1]} frames, a window takes {size}")
        for first in range(0, video.shape[1] - size + 1, step):
            yield f"@{first}", video[:, first : first + size]
    if asked.shuffled and video.shape[1] > 1:
        yield SHUFFLED, shuffle_frames(video, keys)


def shuffle_frames(video: Tensor, keys: list[str]) -> Tensor:
    """Each clip's frames in an order of its own, never the true one."""
    return torch.stack(
        [clip[_order(len(clip), key)] for clip, key in zip(video, keys, strict=True)]
    )


def _order(frames: int, key: str) -> Tensor:
    order = torch.randperm(frames, generator=rng.generator("shuffled frames", key))
    unchanged = bool((order == torch.arange(frames)).all())
    return order.roll(1) if unchanged else order
