"""A family that reads what `hvdm data derive` makes: how brightness moves, as vectors."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hvdm.config import DataConfig
from hvdm.data.derivation import derived_by, saved
from hvdm.data.fields import Field, array, read_media, video
from hvdm.data.moves import VECTORS
from hvdm.data.schema import Sample
from tests.seams.moving import Config, build

__all__ = ["Config", "build"]


def reads(config: Config, data: DataConfig) -> tuple[Field, ...]:
    shape = (data.frames - 1, 2, data.height, data.width)
    made_by = derived_by("tests.seams.derived:Shifts")
    flow = array("flow", "shift.npy", shape, VECTORS, timed=True, made_by=made_by)
    return video(data), flow


@dataclass(frozen=True)
class Shifts:
    """The slope of brightness, times how it changes; `pause_s` is how long a sample takes."""

    scale: float = 1.0
    pause_s: float = 0.0

    def identity(self) -> dict[str, Any]:
        return {"scale": self.scale}

    def samples(self, key: str, parts: Mapping[str, bytes]) -> Iterator[Sample]:
        time.sleep(self.pause_s)
        bright = read_media(parts).mean(-1, dtype=np.float32) / 255 * self.scale
        down, right = np.gradient(bright, axis=(1, 2))
        shift = np.stack([right, down], 1)[:-1] * np.diff(bright, axis=0)[:, None]
        yield Sample(key, {"shift.npy": saved(shift)})
