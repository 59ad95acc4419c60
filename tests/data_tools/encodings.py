"""The same film in many encodings, each with what makes its keyframes or its times hard."""

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from data_tools.synthetic.rendering import render

FRAMES = 50
OPEN = {"g": "12", "bf": "3", "sc_threshold": "0"}
X265 = "log-level=none:bframes=3:keyint=12:min-keyint=12:scenecut=0"

ENCODINGS: dict[str, tuple[str, dict[str, str]]] = {
    "h264-closed.mp4": ("libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=0"}),
    "h264-open.mp4": ("libx264", {**OPEN, "x264-params": "open-gop=1:b-adapt=0"}),
    "h264-open.mkv": ("libx264", {**OPEN, "x264-params": "open-gop=1:b-adapt=0"}),
    "h264-open.ts": ("libx264", {**OPEN, "x264-params": "open-gop=1:b-adapt=0"}),
    "h264-pyramid.mp4": ("libx264", {**OPEN, "bf": "5", "x264-params": "open-gop=1:b-adapt=0"}),
    "h264-refresh.mp4": ("libx264", {"g": "12", "bf": "0", "x264-params": "intra-refresh=1"}),
    "h264-long.mp4": ("libx264", {"g": "250", "bf": "3"}),
    "h264-variable.mkv": ("libx264", {"g": "12"}),
    "h264-odd.mkv": ("libx264", {"g": "12"}),
    "h264-rotated.mp4": ("libx264", {"g": "12", "bf": "2"}),
    "h264-edited.mp4": ("libx264", {"g": "12", "bf": "2"}),
    "h264-sound.mp4": ("libx264", OPEN),
    "h265-closed.mp4": ("libx265", {"x265-params": f"{X265}:open-gop=0"}),
    "h265-open.mp4": ("libx265", {"x265-params": f"{X265}:open-gop=1"}),
    "h265-open.mkv": ("libx265", {"x265-params": f"{X265}:open-gop=1"}),
    "vp9.webm": ("libvpx-vp9", {"g": "12", "lag-in-frames": "8", "cpu-used": "8"}),
    "vp8.webm": ("libvpx", {"g": "12", "cpu-used": "8", "deadline": "realtime"}),
    "mpeg4.avi": ("mpeg4", {"g": "12", "bf": "2"}),
    "mpeg4.mp4": ("mpeg4", {"g": "12", "bf": "2"}),
    "mpeg4-long.mov": ("mpeg4", {"g": "250"}),
    "mpeg2.mpg": ("mpeg2video", {"g": "12", "bf": "2"}),
    "mpeg2.ts": ("mpeg2video", {"g": "12", "bf": "2"}),
    "mpeg2.mkv": ("mpeg2video", {"g": "12", "bf": "0"}),
    "film.gif": ("gif", {}),
}


def write_all(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(ENCODINGS):
        write(folder / name, number)


@cache
def _film() -> np.ndarray:
    return render(0, 1, FRAMES, 48, 64).video


def write(path: Path, number: int = 0) -> Path:
    """Each its own film, shifted a little: equal ones would have no place in a data set."""
    codec, options = ENCODINGS[path.name]
    video = np.roll(_film(), 2 * number, axis=2)
    pix_fmt = "yuv444p" if "odd" in path.name else "rgb8" if codec == "gif" else "yuv420p"
    if "odd" in path.name:
        video = np.ascontiguousarray(video[:, :47, :63])
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *video.shape[1:3], pix_fmt
        if "rotated" in path.name:
            stream.set_display_rotation(90)
        sounds = [out.add_stream("aac", rate=16000) for _ in range(2 * ("sound" in path.name))]
        for frame in _frames(video, "variable" in path.name):
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        for sound in sounds:
            out.mux(sound.encode(_silence()))
            out.mux(sound.encode(None))
    if "edited" in path.name:
        path.write_bytes(later(path.read_bytes(), 12))
    return path


def _frames(video: np.ndarray, variable: bool) -> Iterator[av.VideoFrame]:
    for number, pixels in enumerate(video):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        late = 3 * (number // 20) if variable else 0
        frame.pts, frame.time_base = number + late, Fraction(1, 25)
        yield frame


def _silence() -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
    frame.sample_rate, frame.pts = 16000, 0
    return frame


def later(data: bytes, frames: int) -> bytes:
    """An edit list that leaves out the first frames."""
    out = bytearray(data)
    at = out.index(b"elst") + 4 + 4 + 4 + 4
    begin = int.from_bytes(out[at : at + 4], "big")
    tick = out.index(b"stts") + 16
    step = int.from_bytes(out[tick : tick + 4], "big")
    out[at : at + 4] = (begin + frames * step).to_bytes(4, "big")
    return bytes(out)


def in_sequence(path: Path) -> int:
    """How many frames decode from the first on."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(container.streams.video[0]))
