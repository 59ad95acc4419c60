"""Small source videos with all that goes wrong in real ones."""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from data_tools.synthetic.rendering import render
from hvdm.media.h264 import encode_h264


def shapes(seed: int, frames: int = 40, height: int = 48, width: int = 64) -> np.ndarray:
    return render(seed, 1, frames, height, width).video


def write(path: Path, video: np.ndarray, fps: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_h264(video, fps))
    return path


def with_times(path: Path, video: np.ndarray, times: list[int], codec: str = "libx264") -> Path:
    """Frames at these times, in hundredths of a second."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=100)
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, 100)
        stream.codec_context.time_base = Fraction(1, 100)
        for pixels, time in zip(video, times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 100)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def of_codec(path: Path, video: np.ndarray, codec: str, pix_fmt: str, **options: str) -> Path:
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=10, options=options)
        stream.height, stream.width, stream.pix_fmt = *video.shape[1:3], pix_fmt
        for pixels in video:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode(None))
    return path


def sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def announcing(data: bytes, count: int) -> bytes:
    """The container says that it has `count` frames: its sample tables are stretched."""
    out = bytearray(data)
    at = out.index(b"stts") + 4
    out[at + 8 : at + 12] = count.to_bytes(4, "big")
    return bytes(out)


def png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
