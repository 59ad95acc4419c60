"""Features of clips: a block of them is read, shown to a detector, and described by arrays."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eval.blocks.cost import counted
from eval.blocks.tasks import Arrays, BlockJob, BlockTask, about
from eval.clips.sources import Clips
from eval.clips.subject import Samples, exact_arithmetic, open_model, refuse_not_finite
from eval.networks.detectors import FEATURES, Detector, DetectorChoice, make
from hvdm import rng
from hvdm.errors import UserError

SHUFFLED, LABEL = "shuffled", "label"


@dataclass(frozen=True, kw_only=True)
class Extraction(BlockJob):
    """A set of clips seen by a detector."""

    detector: DetectorChoice
    window: tuple[int, int] | None = None
    pooled: bool = False
    crop: tuple[int, int] | None = None
    jpeg: int | None = None
    shuffled: bool = False
    labelled: bool = False

    def particulars(self) -> Mapping[str, Any]:
        return {
            "detector": make(self.detector).fields(),
            "takes": self.detector.takes,
            "window": self.window,
            "shuffled": self.shuffled,
            **({"pooled": True} if self.pooled else {}),
            **({"crop": self.crop} if self.crop else {}),
            **({"jpeg": self.jpeg} if self.jpeg else {}),
            **({"labelled": True} if self.labelled else {}),
            **({"counted": True} if isinstance(self.source, Samples) else {}),
        }

    def arrays(self, task: BlockTask) -> Arrays:
        """Features by layer."""
        detector = make(self.detector, self.device)
        found: dict[str, list[npt.NDArray[Any]]] = {}
        keys: list[str] = []
        preview: list[Tensor] = []
        short, cost = 0, Arrays()
        with exact_arithmetic(self.threads):
            for part, indices in enumerate(task.parts()):
                clips, more = self._read(indices, task.number == part == 0)
                cost |= more
                short += len(clips.short)
                keys += clips.keys
                preview += clips.videos[: self.shown - len(preview)]
                for layer, rows in _seen(self, detector, clips):
                    found.setdefault(layer, []).append(rows)
        arrays: Arrays = {layer: np.concatenate(rows) for layer, rows in found.items()}
        if self.labelled:
            arrays[LABEL] = np.asarray(self.source.labels(task.indices, self.device))
        return arrays | about(task.number, keys, short, preview) | cost

    def _read(self, indices: tuple[int, ...], first: bool) -> tuple[Clips, Arrays]:
        """The clips; of the first that are samples, also what one costs."""
        if not first or not isinstance(self.source, Samples):
            return self.source.read(indices, self.look, self.device), {}
        with counted(open_model(self.source.model, self.device).nets) as found:
            clips = self.source.read(indices, self.look, self.device)
        return clips, found.arrays(len(indices))


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
    if asked.crop:
        video = middle(video, asked.crop, keys)
    if asked.jpeg:
        video = through_jpeg(video, asked.jpeg)
    if asked.window is None:
        yield "", video
    else:
        size, step = asked.window
        if video.shape[1] < size:
            raise UserError(f"{keys[0]} has {video.shape[1]} frames, a window takes {size}")
        windows = video.unfold(1, size, step).movedim(-1, 2)
        if asked.pooled:
            yield "", windows.flatten(0, 1)
        else:
            yield from ((f"@{at * step}", window) for at, window in enumerate(windows.unbind(1)))
    if asked.shuffled and video.shape[1] > 1:
        yield SHUFFLED, shuffle_frames(video, keys)


def middle(video: Tensor, size: tuple[int, int], keys: list[str]) -> Tensor:
    """The middle of `B T H W C`, as high and wide as `size`."""
    top, left = ((there - part) // 2 for there, part in zip(video.shape[2:4], size, strict=True))
    if min(top, left) < 0:
        raise UserError(f"{keys[0]} is {video.shape[2]}x{video.shape[3]}, a crop takes {size}")
    return video[:, :, top : top + size[0], left : left + size[1]]


def through_jpeg(video: Tensor, quality: int) -> Tensor:
    """`B T H W C` as it is read from JPEG files of its frames."""
    frames = [_through_jpeg(frame.numpy(), quality) for frame in video.cpu().flatten(0, 1)]
    return torch.from_numpy(np.stack(frames)).unflatten(0, video.shape[:2])


def _through_jpeg(frame: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return np.asarray(image)


def shuffle_frames(video: Tensor, keys: list[str]) -> Tensor:
    """Each clip's frames in an order of its own, never the true one."""
    return torch.stack(
        [clip[_order(len(clip), key)] for clip, key in zip(video, keys, strict=True)]
    )


def _order(frames: int, key: str) -> Tensor:
    order = torch.randperm(frames, generator=rng.generator("shuffled frames", key))
    unchanged = bool((order == torch.arange(frames)).all())
    return order.roll(1) if unchanged else order
