"""From the bytes of a video file to frames: decord first, PyAV where decord cannot."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from hvdm.errors import RunError, UserError

Frames = npt.NDArray[np.uint8]
"""Frames `T H W C`, red first."""


@dataclass(frozen=True)
class ClipSpec:
    """What a run takes of a video: every stride-th of its frames, at this size."""

    frames: int
    height: int
    width: int
    stride: int = 1

    def __post_init__(self) -> None:
        if min(self.frames, self.height, self.width, self.stride) < 1:
            raise UserError(f"a clip's frames, height, width and stride are at least 1, got {self}")

    @property
    def span(self) -> int:
        """How many frames of the video a clip reaches over."""
        return (self.frames - 1) * self.stride + 1


class CannotDecode(RunError):
    """The bytes are no video that decord or PyAV reads."""


def decode(
    data: bytes, clip: ClipSpec, start: int = 0, promised: int | None = None, name: str = "video"
) -> Frames:
    """The clip that begins at frame `start`; `promised` is the number of frames there should be."""
    indices = range(start, start + clip.span, clip.stride)
    frames = _read(data, indices, promised, name)
    return resize(frames, clip.height, clip.width)


def count_frames(data: bytes, name: str = "video") -> int:
    """How many frames the video has."""
    reader = _decord_reader(data)
    return len(reader) if reader is not None else len(decode_all(data, name))


def _read(data: bytes, indices: Sequence[int], promised: int | None, name: str) -> Frames:
    frames = _read_by_decord(data, indices, promised, name)
    if frames is not None:
        return frames
    frames = decode_all(data, name)
    _check_count(len(frames), indices, promised, name)
    return frames[list(indices)]


def _read_by_decord(
    data: bytes, indices: Sequence[int], promised: int | None, name: str
) -> Frames | None:
    """None where decord cannot, and PyAV has the word: AV1, or some widths (16, 24, 48, 72)."""
    reader = _decord_reader(data)
    if reader is None:
        return None
    # Before any read: where a container announces too many frames, decord never returns.
    _check_count(len(reader), indices, promised, name)
    try:
        return np.asarray(reader.get_batch(list(indices)).asnumpy())
    except Exception:  # decord raises more kinds than it exports
        return None


def _check_count(count: int, indices: Sequence[int], promised: int | None, name: str) -> None:
    if promised is not None and count != promised:
        raise CannotDecode(f"{name}: {count} frames where {promised} were promised")
    if indices[-1] >= count:
        raise CannotDecode(
            f"{name}: {count} frames, and frame {indices[-1]} is asked for; "
            "ask for fewer frames or a smaller stride"
        )


def _decord_reader(data: bytes) -> Any | None:
    """A reader for this thread alone, or None where PyAV has to read."""
    try:
        import decord
    except ImportError:
        return None
    try:
        return decord.VideoReader(io.BytesIO(data), ctx=decord.cpu(0), num_threads=1)
    except (decord.DECORDError, RuntimeError):
        return None


def decode_all(data: bytes, name: str = "video", strict: bool = False) -> Frames:
    """Every frame, by PyAV; strict: damage that decoders conceal is an error too."""
    import av

    try:
        with av.open(io.BytesIO(data), "r") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            if strict:
                stream.codec_context.options = {"err_detect": "explode"}
            frames = list(container.decode(stream))
            if strict and any(frame.is_corrupt for frame in frames):
                raise CannotDecode(f"{name}: a frame is marked as corrupt")
            return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise CannotDecode(f"{name}: unreadable as video ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def resize(frames: Frames, height: int, width: int) -> Frames:
    """Centre crop to the aspect, then bilinear with antialias; nothing where the size fits."""
    if frames.shape[1:3] == (height, width):
        return frames
    cropped = torch.from_numpy(crop_to_aspect(frames, height, width).copy())
    scaled = functional.interpolate(
        cropped.permute(0, 3, 1, 2).float(),
        size=(height, width),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    pixels = scaled.round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()


def crop_to_aspect(frames: Frames, height: int, width: int) -> Frames:
    """The largest centred part of the frames that has the aspect height : width."""
    full_height, full_width = frames.shape[1:3]
    tall = min(full_height, round(full_width * height / width))
    wide = min(full_width, round(full_height * width / height))
    top, left = (full_height - tall) // 2, (full_width - wide) // 2
    return frames[:, top : top + tall, left : left + wide]
