"""How a clip moves from its first frame: dense optical flow, and whether it can be trusted.

DIS (arXiv 1603.03590) from the first frame directly to each of the others. It is coarse to fine
itself; each frame begins where the one before ended, which finds large motions step by step.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from hvdm.data.clips import Frames
from hvdm.errors import UserError, closest

Motion = npt.NDArray[np.float32]
SPECTRUM_SUFFIX = "spectrum.npy"
"""Of the part that holds a spectral volume, `K 2 2 H W`."""
UNIT_SIDE, LEAST_SIDE = 160, 96
"""Along the shorter side: pixels that thresholds count, and how many flow is computed on."""

FilterName = Literal["usual", "paper", "none"]
MotionFault = Literal["camera", "still", "failed"]


@dataclass(frozen=True)
class MotionFilter:
    """In pixels where the shorter side has 160, of means over time but for `failed`.

    camera: so many percent of the pixels that move least move more than this; still: less than
    this do the pixels at a percentile, or on average (None); failed: a frame's mean is larger.
    """

    camera: float
    camera_share: float
    still: float
    still_share: float | None
    failed: float = 8.0


FILTERS = {
    "usual": MotionFilter(camera=1.0, camera_share=20, still=0.3, still_share=95),
    "paper": MotionFilter(camera=1.0, camera_share=5, still=1.0, still_share=None),
}


def filter_named(name: str) -> MotionFilter | None:
    if name not in get_args(FilterName):
        raise UserError(f"filter={name!r}; {closest(name, get_args(FilterName))}")
    return FILTERS.get(name)


def flow_from_first(frames: Frames) -> Motion:
    """`T H W C` -> displacements `T 2 H W` in pixels, of which the first are zero."""
    import cv2

    cv2.setNumThreads(1)  # equal clips, equal bytes
    height, width = frames.shape[1:3]
    factor = max(1, -(-LEAST_SIDE // min(height, width)))
    size = (width * factor, height * factor)
    grey = [_enlarged(frame, size) for frame in frames]
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    found = np.zeros((len(frames), 2, height, width), np.float32)
    start: npt.NDArray[np.float32] | None = None
    for number in range(1, len(frames)):
        start = np.asarray(dis.calc(grey[0], grey[number], start), np.float32)
        found[number] = _reduced(start, factor)
    return found


def _enlarged(frame: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    import cv2

    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def _reduced(flow: npt.NDArray[np.float32], factor: int) -> npt.NDArray[np.float32]:
    height, width = (side // factor for side in flow.shape[:2])
    means = flow.reshape(height, factor, width, factor, 2).mean((1, 3)) / factor
    return np.moveaxis(means, -1, 0)


def fault(motion: Motion, limits: MotionFilter) -> MotionFault | None:
    """What is wrong with a clip's motion `T 2 H W`, if anything is."""
    scale = UNIT_SIDE / min(motion.shape[-2:])
    sizes = np.linalg.norm(motion[1:], axis=1) * scale
    over_time = sizes.mean(0)
    if np.percentile(over_time, limits.camera_share) > limits.camera:
        return "camera"
    if sizes.mean((1, 2)).max() > limits.failed:
        return "failed"
    share = limits.still_share
    most = over_time.mean() if share is None else np.percentile(over_time, share)
    return "still" if most < limits.still else None
