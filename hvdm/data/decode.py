"""From the bytes of a video file to frames, by one of several decoders behind one interface.

decord is the default. What it cannot read (AV1, some widths: 16, 24, 48, 72), or would number wrong
after a seek (groups of pictures that refer to the one before), PyAV reads in sequence.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.dlpack import from_dlpack

from hvdm.data.clips import ClipSpec, Frames, crop_to_aspect, resize
from hvdm.data.containers import (
    CERTAIN,
    HEAD,
    PICTURE_ERRORS,
    check_size,
    demuxer_of,
    enters_anywhere,
    frames_of,
    open_picture,
    open_video,
)
from hvdm.errors import RunError, UserError, closest

__all__ = ["ClipSpec", "Frames", "crop_to_aspect", "resize"]


class CannotDecode(RunError):
    """The bytes are no video that any decoder here reads."""


class Unsuited(Exception):
    """This decoder cannot read the video; another may."""


Read = Callable[[bytes, Sequence[int], int | None, str], Frames]
"""Frames of these numbers; the count that was promised, and the video's name for messages."""


def decode(
    data: bytes,
    clip: ClipSpec,
    start: int = 0,
    promised: int | None = None,
    name: str = "video",
    decoder: str = "decord",
) -> Frames:
    """The clip that begins at frame `start`; `promised` is the number of frames there should be."""
    indices = range(start, start + clip.span, clip.stride)
    return resize(read_frames(data, indices, promised, name, decoder), clip.height, clip.width)


def read_frames(
    data: bytes, indices: Sequence[int], promised: int | None, name: str, decoder: str = "decord"
) -> Frames:
    """Frames of these numbers, at the video's size, by the decoder or else by PyAV."""
    try:
        if demuxer_of(data[:HEAD]) not in CERTAIN:
            raise Unsuited
        return DECODERS[decoder](data, indices, promised, name)
    except Unsuited:
        return _by_pyav(data, indices, promised, name)


def check_decoder(name: str) -> None:
    """Refuses a decoder that is not known or not installed."""
    if name not in DECODERS:
        raise UserError(f"data.decoder={name!r} is not known; {closest(name, DECODERS)}")
    if name == "torchcodec" and _torchcodec() is None:
        raise UserError("data.decoder=torchcodec: it is not installed here; use decord or pyav")


def check_count(count: int, indices: Sequence[int], promised: int | None, name: str) -> None:
    if promised is not None and count != promised:
        raise CannotDecode(f"{name}: {count} frames where {promised} were promised")
    if indices[-1] >= count:
        raise CannotDecode(
            f"{name}: {count} frames, and frame {indices[-1]} is asked for; "
            "ask for fewer frames or a smaller stride"
        )


# decord


def _by_decord(data: bytes, indices: Sequence[int], promised: int | None, name: str) -> Frames:
    if promised is None:
        # Where a container announces too many frames, decord never returns.
        raise Unsuited
    _check_before(data, promised, name)
    reader = _decord_reader(data)
    check_count(len(reader), indices, promised, name)
    try:
        # DLPack hands over decord's own memory, where asnumpy would copy it
        frames = from_dlpack(reader.get_batch(list(indices)).to_dlpack())
        return frames.numpy()
    except Exception as error:  # decord raises more kinds than it exports
        raise Unsuited from error


def _check_before(data: bytes, promised: int, name: str) -> None:
    """Keeps from decord what would fill the memory, hang it, or be numbered wrong."""
    import av

    try:
        with open_video(io.BytesIO(data)) as container:
            if not enters_anywhere(container, promised):
                raise Unsuited
            context = container.streams.video[0].codec_context
            check_size(context.width, context.height)
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise CannotDecode(f"{name}: unreadable as video ({_first_line(error)})") from error


def _decord_reader(data: bytes) -> Any:
    """A reader for this thread alone."""
    try:
        import decord
    except ImportError as error:
        raise Unsuited from error
    try:
        return decord.VideoReader(io.BytesIO(data), ctx=decord.cpu(0), num_threads=1)
    except (decord.DECORDError, RuntimeError) as error:
        raise Unsuited from error


# torchcodec


def _torchcodec() -> Any | None:
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError):
        return None
    return VideoDecoder


def _by_torchcodec(data: bytes, indices: Sequence[int], promised: int | None, name: str) -> Frames:
    make = _torchcodec()
    if make is None:
        raise Unsuited
    try:
        reader = make(data, num_ffmpeg_threads=1, dimension_order="NHWC")
        check_count(int(reader.metadata.num_frames), indices, promised, name)
        return np.asarray(reader.get_frames_at(indices=list(indices)).data.numpy())
    except (RuntimeError, ValueError) as error:
        raise Unsuited from error


# PyAV


def _by_pyav(data: bytes, indices: Sequence[int], promised: int | None, name: str) -> Frames:
    kept: dict[int, Frames] = {}
    wanted, count = set(indices), 0
    for count, pixels in enumerate(frames_in(data, name), start=1):
        if count - 1 in wanted:
            kept[count - 1] = pixels
    check_count(count, indices, promised, name)
    return np.stack([kept[index] for index in indices])


def decode_all(data: bytes, name: str = "video", strict: bool = False) -> Frames:
    """Every frame, by PyAV; strict: damage that decoders conceal is an error too."""
    return np.stack(list(frames_in(data, name, strict)))


def frames_in(data: bytes, name: str = "video", strict: bool = False) -> Iterator[Frames]:
    """One frame after the other, all of one size and at least one."""
    import av

    shape: tuple[int, ...] | None = None
    try:
        with open_video(io.BytesIO(data)) as container:
            for frame in frames_of(container, strict):
                pixels = upright(frame, frame.rotation)
                shape = shape or pixels.shape
                if pixels.shape != shape:
                    raise ValueError("its frames are of several sizes")
                yield pixels
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise CannotDecode(f"{name}: unreadable as video ({_first_line(error)})") from error
    if shape is None:
        raise CannotDecode(f"{name}: has no frame that decodes")


def upright(frame: Any, rotation: int) -> Frames:
    """The pixels as they are meant to be seen: phones store a rotation beside them."""
    pixels: Frames = frame.to_ndarray(format="rgb24", threads=1)
    turns = round(rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


DECODERS: dict[str, Read] = {"decord": _by_decord, "pyav": _by_pyav, "torchcodec": _by_torchcodec}


# Images


def decode_image(data: bytes, name: str = "image") -> Frames:
    """A picture as one frame."""
    try:
        with open_picture(data) as image:
            return np.asarray(image.convert("RGB"))[None]
    except PICTURE_ERRORS as error:
        reason = _first_line(error)
        raise CannotDecode(f"{name}: unreadable as a picture ({reason})") from error
