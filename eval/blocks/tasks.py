"""Work on a set of clips, block by block: what it depends on, and the tasks it is made of."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eval.clips.sources import ClipSource, FrameSelection
from eval.clips.subject import decoder_versions
from hvdm import config as configs
from hvdm import rng

SHOWN, SHOWN_PICTURES = 4, 32
"""Clips to look at, and clips of one frame."""
FORMAT = 1
"""Changes when blocks of older code can no longer be taken for ours."""
Arrays = dict[str, npt.NDArray[Any]]


class Payload(NamedTuple):
    """A block's arrays: features by layer, `keys` of its clips, `short`, `preview`."""

    number: int
    arrays: Arrays


@dataclass(frozen=True, kw_only=True)
class BlockJob(ABC):
    """Some clips of a source, looked at in blocks; equal work is done once, for all who ask."""

    source: ClipSource
    look: FrameSelection
    clips: int
    block: int
    batch: int
    device: str = "cpu"
    threads: int = 1

    @abstractmethod
    def particulars(self) -> Mapping[str, Any]:
        """What else the arrays depend on."""

    @abstractmethod
    def arrays(self, task: "BlockTask") -> Arrays:
        """Of the clips of one block, in their order."""

    def key(self) -> str:
        """sha256 of all that the arrays depend on, and of no path."""
        return configs.digest(
            {
                "format": FORMAT,
                "source": self.source.identity(),
                "look": configs.plain(self.look),
                **{k: getattr(self, k) for k in ("clips", "block", "batch", "threads")},
                "device": self.device.split(":")[0],
                "decoder": decoder_versions(),
                "torch": metadata.version("torch"),
                **self.particulars(),
            }
        )

    @property
    def shown(self) -> int:
        return SHOWN_PICTURES if self.look.frames == 1 else SHOWN

    def blocks(self) -> int:
        return -(-self.clips // self.block)

    def tasks(self) -> list["BlockTask"]:
        """The blocks of the clips in a fixed random order: data sets are often sorted by class."""
        order = chosen(self.source.count(), self.clips)
        at = [k * self.block for k in range(self.blocks())]
        return [BlockTask(self, k, tuple(order[a : a + self.block])) for k, a in enumerate(at)]


@dataclass(frozen=True)
class BlockTask:
    """One block: all that a worker needs, small enough to send anywhere."""

    work: BlockJob
    number: int
    indices: tuple[int, ...]

    def parts(self) -> Iterator[tuple[int, ...]]:
        """The rows of each forward pass."""
        batch = self.work.batch
        for at in range(0, len(self.indices), batch):
            yield self.indices[at : at + batch]

    def run(self) -> Payload:
        return Payload(self.number, self.work.arrays(self))


def chosen(there: int | None, count: int) -> list[int]:
    if there is None:
        return list(range(count))
    order = rng.numpy_generator("videos of an evaluation", there).permutation(there)
    return [int(index) for index in order[:count]]


def about(number: int, keys: list[str], short: int, preview: list[Tensor]) -> Arrays:
    """What a block says of its clips besides features."""
    arrays: Arrays = {"keys": np.asarray(keys, dtype=np.str_), "short": np.asarray(short)}
    if number == 0 and preview and len({video.shape for video in preview}) == 1:
        arrays["preview"] = torch.stack(preview).numpy()
    return arrays
