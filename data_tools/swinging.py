"""A video's own modes as a page to touch, without a model: `hvdm data touch`.

Image-space modal analysis: the spectrum of the motion from the first frame, measured by flow.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from hvdm.data import child
from hvdm.data.clips import Frames, resize
from hvdm.data.containers import open_video
from hvdm.data.decode import CannotDecode, frames_in
from hvdm.data.flow import FILTERS, fault, flow_from_first
from hvdm.disk import atomic_write
from hvdm.errors import UserError
from hvdm.media.touch import Feel, touch_page
from hvdm.ops.spectrum import spectrum_of

FEWEST = 16
USUAL_RATE = 30.0
FAULTS = {
    "camera": "its camera moves: most of the picture does, and modes need a still one",
    "still": "nothing in it moves",
    "failed": "it moves too far to be followed",
}


def page_of_video(
    video: Path, out: Path, frames: int, bins: int, side: int, filtered: bool
) -> dict[str, Any]:
    """Writes the page of the first `frames` frames, the shorter side `side` pixels at most."""
    found, rate = _opened(video, frames, side)
    if len(found) < FEWEST:
        raise UserError(f"{video} has {len(found)} frames, and modes need {FEWEST} or more")
    motion = flow_from_first(found)
    wrong = fault(motion, FILTERS["usual"]) if filtered else None
    if wrong:
        raise UserError(f"{video}: {FAULTS[wrong]}; filter=false takes it all the same")
    spectrum = spectrum_of(torch.from_numpy(motion), min(bins, len(found) // 2)).numpy()
    seconds = len(found) / rate
    page = touch_page(found[0], spectrum, len(found), seconds, Feel())
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, page.encode())
    size = np.abs(motion).max()
    return {"page": str(out), "frames": len(found), "rate": rate, "largest": round(float(size), 2)}


def _opened(video: Path, frames: int, side: int) -> tuple[Frames, float]:
    try:
        data = video.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{video}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{video} is a folder; give one video") from None
    try:
        return child.call(_read, data, frames, side)
    except (CannotDecode, child.Failed) as error:
        raise UserError(f"{video} cannot be read as a video ({error})") from None


def _read(data: bytes, frames: int, side: int) -> tuple[Frames, float]:
    """In a child: frames at their size, and how many there are in a second."""
    import io

    kept: list[Frames] = []
    for frame in frames_in(data):
        kept.append(_small(frame, side))
        if len(kept) == frames:
            break
    with open_video(io.BytesIO(data)) as container:
        rate = container.streams.video[0].average_rate
    return np.stack(kept), float(rate or USUAL_RATE)


def _small(frame: Frames, side: int) -> Frames:
    height, width = frame.shape[:2]
    share = min(1.0, side / min(height, width))
    return resize(frame[None], max(2, round(height * share)), max(2, round(width * share)))[0]
