"""Clips become pictures with spectral volumes: `hvdm data derive motion` (arXiv 2309.07906).

Each sample is a data set's row by itself: the start frame, the spectrum of the motion from there,
and what it was made of. With `beside=true` it is one part under the key of its clip.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from data_tools.archives import png
from data_tools.histogram import Counts, counted, percentile
from hvdm.data import child
from hvdm.data.clips import Frames
from hvdm.data.decode import CannotDecode
from hvdm.data.derivation import LeftOut, saved
from hvdm.data.facts import whole
from hvdm.data.fields import about_of, read_media
from hvdm.data.flow import (
    SPECTRUM_SUFFIX,
    FilterName,
    Motion,
    fault,
    filter_named,
    flow_from_first,
)
from hvdm.data.schema import Sample, canonical
from hvdm.errors import UserError
from hvdm.media.h264 import encode_h264
from hvdm.ops.spectrum import spectrum_of

FLOW_SUFFIX = "flow.npy"
KEPT_FACTS = ("label", "class", "caption", "source", "fps")
SCALE_PERCENTILE = 0.95
MOST_FPS = 1000


@dataclass(frozen=True)
class MotionVolumes:
    """Of windows of `frames`, each `every` frames; without `frames` the whole clip is one.

    `flows` keeps the flow and the frames too, which a renderer trains on.
    """

    bins: int = 16
    frames: int | None = None
    every: int = 10
    filter: FilterName = "usual"
    flows: bool = False
    beside: bool = False

    def __post_init__(self) -> None:
        for key in ("bins", "every"):
            if getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)} is below 1")
        if self.frames is not None and self.frames < 2 * self.bins - 2:
            raise UserError(
                f"frames={self.frames} has {self.frames // 2 + 1} frequencies, bins={self.bins}; "
                "take longer windows, or fewer bins"
            )

    def identity(self) -> dict[str, Any]:
        limits = filter_named(self.filter)
        told = {"limits": asdict(limits)} if limits else {}
        return {"motion": {**asdict(self), **told}}

    def samples(self, key: str, parts: Mapping[str, bytes]) -> Iterator[Sample | LeftOut]:
        frames, about = child.call(_frames, dict(parts)), about_of(parts)
        starts = self._starts(key, len(frames))
        for start in starts:
            own = key if len(starts) == 1 else f"{key}-{start:04d}"
            window = frames[start : start + (self.frames or len(frames))]
            motion = flow_from_first(window)
            limits = filter_named(self.filter)
            wrong = fault(motion, limits) if limits else None
            if wrong and self.beside:
                raise UserError(
                    f"{key} is left out ({wrong}), and beside=true takes every clip: filter the "
                    "clips first, or set filter=none or beside=false"
                )
            if wrong:
                yield LeftOut(own, wrong)
                continue
            made = {SPECTRUM_SUFFIX: saved(self._volume(motion))}
            made |= {FLOW_SUFFIX: saved(motion.astype(np.float16))} if self.flows else {}
            facts = {name: about[name] for name in KEPT_FACTS if name in about}
            facts |= {"clip": key, "start": start, "motion_frames": len(window)}
            yield Sample(own, made if self.beside else made | self._pictures(window, facts))

    def _starts(self, key: str, total: int) -> range:
        length = self.frames or total
        if total < length or length < 2 * self.bins - 2:
            raise UserError(
                f"{key} has {total} frames, and a window of {self.frames or 'all of them'} with "
                f"{self.bins} bins needs {max(self.frames or 0, 2 * self.bins - 2)}; shard with a "
                "larger min_frames, or set frames= and bins="
            )
        starts = range(0, total - length + 1, self.every)
        return starts[:1] if self.beside else starts

    def _volume(self, motion: Motion) -> np.ndarray[Any, np.dtype[np.float16]]:
        """`K 2 2 H W`: real and imaginary parts, each of x and y."""
        spectrum = spectrum_of(torch.from_numpy(motion), self.bins)
        return torch.stack((spectrum.real, spectrum.imag), 1).numpy().astype(np.float16)

    def _pictures(self, window: Frames, facts: Mapping[str, Any]) -> dict[str, bytes]:
        if not self.flows:
            return {"json": canonical(facts), "png": png(window[0])}
        fps = whole(facts, "fps", 30, least=1)
        if fps > MOST_FPS:
            raise CannotDecode(f"its json says fps {fps}, which cannot be")
        film = encode_h264(window, fps)
        return {"json": canonical({**facts, "frames": len(window)}), "mp4": film}

    def counts(self, sample: Sample) -> dict[str, Counts]:
        volume = _loaded(sample.parts[SPECTRUM_SUFFIX])
        return {"magnitudes": np.stack([counted(one) for one in volume])}

    def measured(self, counts: Mapping[str, Counts]) -> dict[str, Any]:
        """One scale for each frequency, over both parts of both components."""
        scales = [percentile(one, SCALE_PERCENTILE) for one in counts["magnitudes"]]
        return {"scales": [round(scale, 6) for scale in scales]}


def _frames(parts: dict[str, bytes]) -> Frames:
    return read_media(parts)


def _loaded(content: bytes) -> np.ndarray[Any, np.dtype[np.float16]]:
    import io

    found: np.ndarray[Any, np.dtype[np.float16]] = np.load(io.BytesIO(content), allow_pickle=False)
    return found
