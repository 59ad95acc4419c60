"""Videos and pictures, opened as what their first bytes say: nothing guesses, nothing else opens.

Given its choice, libav takes a text for a playlist and opens the addresses that it names, and a
library of pictures runs other programs for some kinds.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MAX_PIXELS = 1 << 26
"""Of one picture or frame: 8192 x 8192. A few bytes can announce any number."""

HEAD = 512
"""Bytes that say what a file is."""

IDR = 5
"""The kind of an h264 unit that forgets all that came before."""

BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
STARTS = {
    b"\x1a\x45\xdf\xa3": "matroska",
    b"GIF8": "gif",
    b"\x00\x00\x01\xba": "mpeg",
    b"\x00\x00\x01\xb3": "mpegvideo",
    b"FLV\x01": "flv",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
}
CERTAIN = ("mov", "matroska", "avi")
"""What a decoder that cannot be told the container still takes for nothing else."""


def demuxer_of(head: bytes) -> str | None:
    """libav's name of the container that begins so."""
    if head[4:8] in BOXES:
        return "mov"
    if head[:4] == b"RIFF" and head[8:11] == b"AVI":
        return "avi"
    if head[:1] == head[188:189] == b"G":
        return "mpegts"
    return next((name for start, name in STARTS.items() if head.startswith(start)), None)


def check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} is more than {MAX_PIXELS} pixels")


@contextmanager
def open_video(source: str | io.BytesIO) -> Iterator[Any]:
    """A container with a video; what is none raises ValueError or av.FFmpegError."""
    import av

    demuxer = demuxer_of(_head(source))
    if demuxer is None:
        raise ValueError("it begins like no video: mp4, mov, mkv, webm, avi, gif, mpeg, flv, wmv")
    options = {"protocol_whitelist": "file"}
    with av.open(source, "r", format=demuxer, options=options) as container:
        yield container


def _head(source: str | io.BytesIO) -> bytes:
    if isinstance(source, io.BytesIO):
        return bytes(source.getbuffer()[:HEAD])
    with open(source, "rb") as file:
        return file.read(HEAD)


def frames_of(container: Any, strict: bool = False) -> Iterator[Any]:
    """Every frame of the first video, in sequence, on one thread.

    Strict: damage that decoders conceal is an error, except in pictures that are shown before the
    first keyframe: what those refer to was cut away, and they are no frames of this video.
    """
    import av

    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)} | (
        {"err_detect": "explode"} if strict else {}
    )
    entry: int | None = None
    for packet in container.demux(stream):
        if entry is None and packet.is_keyframe:
            entry = packet.pts
        try:
            frames = packet.decode()
        except av.FFmpegError:
            if not strict or not _is_before(packet.pts, entry):
                raise
            continue
        for frame in frames:
            if strict and frame.is_corrupt and not _is_before(frame.pts, entry):
                raise ValueError(f"a frame is marked as corrupt, at {frame.time or 0:.2f} s")
            check_size(frame.width, frame.height)
            yield frame


def _is_before(time: int | None, entry: int | None) -> bool:
    return time is not None and entry is not None and time < entry


def enters_anywhere(container: Any, frames: int) -> bool:
    """True where a decoder may begin at any keyframe and number what it decodes.

    So each packet is a frame, none after a keyframe is shown before it, and each keyframe resets.
    """
    stream = container.streams.video[0]
    is_h264 = stream.codec_context.name == "h264"
    entry, count = None, 0
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
        if packet.pts is None or _is_before(packet.pts, entry):
            return False
        if packet.is_keyframe:
            entry = packet.pts
            if is_h264 and not _resets(bytes(packet)):
                return False
        count += 1
    return count == frames


def _resets(packet: bytes) -> bool:
    """Whether an h264 keyframe has an IDR picture, and is not one of several that refresh."""
    at = 0
    while at + 4 < len(packet):
        if packet[at + 4] & 31 == IDR:
            return True
        at += 4 + int.from_bytes(packet[at : at + 4], "big")
    return False


# Pictures

PICTURES = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
PICTURE_ERRORS = (OSError, ValueError, SyntaxError)


@contextmanager
def open_picture(data: bytes) -> Iterator[Any]:
    """A picture that is not decoded yet; what is none raises one of PICTURE_ERRORS."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # check_size is the judge, not this library's own limit
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=PICTURES)
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from None
    with image:
        check_size(*image.size)
        yield image
