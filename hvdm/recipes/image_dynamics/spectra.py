"""What the family's stages read: spectral volumes, and the picture that they belong to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from hvdm.data.arrays import read_array
from hvdm.data.clips import Values
from hvdm.data.fields import Decode, Field, RawSample
from hvdm.data.flow import SPECTRUM_SUFFIX
from hvdm.data.moves import SPECTRUM
from hvdm.errors import UserError
from hvdm.recipe import Batch

MADE_BY = "`hvdm data derive motion DIR out=OUT` makes it, data.path=OUT reads it"


def volume(bins: int, height: int, width: int, frames: int | None = None) -> Field:
    """The first bins, real and imaginary parts: `K 2 2 H W`, of motion as long as that."""
    shape = (bins, 2, 2, height, width)
    decode = partial(_first_bins, bins, frames)
    return Field(
        "spectrum", (SPECTRUM_SUFFIX,), "float32", shape, decode, SPECTRUM, made_by=MADE_BY
    )


def _first_bins(
    bins: int, length: int | None, raw: RawSample, frames: Sequence[int] | None
) -> Values:
    if length is not None and raw.about.get("motion_frames", length) != length:
        raise UserError(
            f"model.frames={length}, and the motion of {raw.name} is of "
            f"{raw.about['motion_frames']} frames; set model.frames to that, or derive all motion "
            f"with frames={length}"
        )
    stored = read_array(raw.parts[SPECTRUM_SUFFIX], "its spectrum")
    if len(stored) < bins:
        raise UserError(
            f"model.bins={bins}, and {raw.name} has {len(stored)} frequencies; set model.bins to "
            "at most that, or derive the motion with more bins"
        )
    return np.asarray(stored[:bins], np.float32)


def from_first(field: Field) -> Field:
    """Frames of any window, but from the clip's first: motion is told from there."""
    return replace(field, decode=partial(_from_first, field.decode))


def _from_first(decode: Decode, raw: RawSample, frames: Sequence[int] | None) -> Values:
    return decode(raw, frames and [number - frames[0] for number in frames])


def channels_of(batch: Batch) -> Tensor:
    """`B K 4 H W`: Re x, Re y, Im x, Im y."""
    return batch["spectrum"].flatten(2, 3)


def scales_of(bins: int, found: Mapping[str, Any]) -> tuple[float, ...]:
    """As they were measured; ones where a recipe is built without a data set."""
    return tuple(map(_scale, found.get("scales", (1.0,) * bins)))


def measured_scales(bins: int, measured: Mapping[str, Any]) -> dict[str, Any]:
    found = measured.get("scales")
    scales = found if isinstance(found, list) else []
    if len(scales) < bins:
        raise UserError(
            f"the data set's manifest has scales of {len(scales)} frequencies, and "
            f"model.bins={bins}: {MADE_BY}"
        )
    return {"scales": list(map(_scale, scales[:bins]))}


def _scale(value: Any) -> float:
    """Of a manifest that anybody may have written; spectra are divided by it."""
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(f"a scale of {value!r:.40} is none of a spectrum: {MADE_BY}")
    return float(value)
