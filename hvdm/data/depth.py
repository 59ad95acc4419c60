"""Depth of single pictures: read from files, checked, and placed before a camera.

Single pictures have depth up to a scale at best, so a rule says what becomes of an estimator's
numbers: `robust` takes their 2nd and 98th percentile to `near` and `far`, evenly in depth, or in
1 / depth where the estimator gives that; `none` keeps them, for depth that is in place already.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from hvdm.data.arrays import read_array
from hvdm.data.containers import PICTURE_ERRORS, open_picture
from hvdm.data.decode import CannotDecode
from hvdm.errors import UserError

DEPTH_SUFFIX = "depth.npy"
DEPTH_FILES = ("png", "npz", "npy")
LOW, HIGH = 2, 98
"""Percentiles: a few wild values of an estimator move nothing."""

Depths = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Placing:
    """The rule, and between which depths of view space it puts a picture."""

    rule: Literal["robust", "none"] = "robust"
    gives: Literal["depth", "disparity"] = "depth"
    near: float = 1.9
    far: float = 4.2

    def __post_init__(self) -> None:
        if not 0 < self.near < self.far:
            raise UserError(f"near={self.near} far={self.far}: expected 0 < near < far")
        if self.rule == "none" and self.gives == "disparity":
            raise UserError("rule=none keeps depth that is in place; gives=disparity needs robust")

    def placed(self, values: Depths) -> Depths:
        if self.rule == "none":
            if values.min() <= 0:
                raise CannotDecode("its depth is 0 or below in places; use rule=robust")
            return values
        low, high = np.percentile(values.astype(np.float64), (LOW, HIGH))
        if not high > low:
            raise CannotDecode("its depth is the same nearly everywhere: nothing can be placed")
        share = np.clip((values - low) / (high - low), 0, 1)
        if self.gives == "depth":
            return np.asarray(self.near + share * (self.far - self.near), np.float32)
        return np.asarray(1 / (1 / self.far + share * (1 / self.near - 1 / self.far)), np.float32)


def checked(values: npt.NDArray[np.generic], wanted: tuple[int, int] | None = None) -> Depths:
    """float32 `H W` of finite numbers, of the picture's size where that is known."""
    found = np.squeeze(values)
    if found.ndim != 2 or not np.issubdtype(found.dtype, np.number):
        raise CannotDecode(f"its depth is {values.dtype} {values.shape}, expected numbers H W")
    if wanted is not None and found.shape != wanted:
        raise CannotDecode(
            f"its depth is {found.shape[0]}x{found.shape[1]}, the picture {wanted[0]}x{wanted[1]}"
        )
    depth = found.astype(np.float32)
    if not np.isfinite(depth).all():
        raise CannotDecode("its depth has places that are not finite")
    return depth


def read_depth(data: bytes, suffix: str) -> npt.NDArray[np.generic]:
    """A 16-bit png, or what numpy saved: one array, or several of which one is `depth`."""
    return _png(data) if suffix == "png" else read_array(data, "its depth", "depth")


def _png(data: bytes) -> npt.NDArray[np.generic]:
    try:
        with open_picture(data) as image:
            if image.mode.startswith("I"):
                return np.asarray(image)
    except PICTURE_ERRORS as error:
        raise CannotDecode(f"its depth cannot be read ({error})") from error
    raise CannotDecode(f"its depth is a png of mode {image.mode}; depth needs 16 bits of grey")


def depth_file(path: Path) -> npt.NDArray[np.generic]:
    """As it lies in a file that was named."""
    suffix = path.suffix[1:].lower()
    if suffix not in DEPTH_FILES or not path.is_file():
        raise UserError(f"{path}: expected a file of depth ({', '.join(DEPTH_FILES)})")
    try:
        return read_depth(path.read_bytes(), suffix)
    except CannotDecode as error:
        raise UserError(f"{path}: {error}") from None
