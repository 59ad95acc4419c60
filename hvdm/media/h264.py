"""Frames as h264 in mp4: equal frames give equal bytes, whatever was encoded before."""

import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Frames = npt.NDArray[np.uint8]
Convert = Callable[[Pixels], Pixels]

GROUP = 8
"""Frames between keyframes: random windows start soon after one."""


def encode_h264(
    video: Frames,
    fps: int | Fraction,
    crf: int = 16,
    group: int = GROUP,
    convert: Convert | None = None,
) -> bytes:
    """An mp4 whose bytes depend on the frames alone; x264's depend on its thread count too.

    With x264's macroblock tree, equal small frames gave unequal bytes, depending on what the
    process had done before; without it, and with its C code instead of assembly, they did not.
    """
    import av

    convert = convert or to_yuv420
    options = {
        "crf": str(crf),
        "g": str(group),
        "bf": "0",
        "sc_threshold": "0",
        "threads": "1",
        "x264-params": "open-gop=0:mbtree=0",
    }
    # To put the index at the front, the muxer reads its own file again, so it needs a real one.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=fps, options=options)
            stream.height, stream.width, stream.pix_fmt = video.shape[1], video.shape[2], "yuv420p"
            for pixels in video:
                frame = av.VideoFrame.from_ndarray(convert(pixels), format="yuv420p")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path.read_bytes()


def to_yuv420(rgb: Pixels) -> Pixels:
    """`H W 3` as planes `3H/2 W`, BT.601, limited range."""
    weights = np.array(
        [
            [65.481, 128.553, 24.966],
            [-37.797, -74.203, 112.0],
            [112.0, -93.786, -18.214],
        ]
    )
    height, width, _ = rgb.shape
    planes = (rgb[..., None, :] * weights).sum(-1) / 255 + (16, 128, 128)
    luma = planes[..., 0].reshape(height, width)
    chroma = planes[..., 1:].reshape(height // 2, 2, width // 2, 2, 2).mean((1, 3))
    flat = np.concatenate([luma.ravel(), chroma[..., 0].ravel(), chroma[..., 1].ravel()])
    return flat.round().clip(0, 255).astype(np.uint8).reshape(height * 3 // 2, width)


def quick_yuv420(rgb: Pixels) -> Pixels:
    """The same in whole numbers: several times as fast, and at most two levels away."""
    height, width, _ = rgb.shape
    wide = rgb.astype(np.int32)
    red, green, blue = wide[..., 0], wide[..., 1], wide[..., 2]
    luma = ((66 * red + 129 * green + 25 * blue + 128) >> 8) + 16
    rows = wide[0::2] + wide[1::2]
    blocks = rows[:, 0::2] + rows[:, 1::2]
    red, green, blue = blocks[..., 0], blocks[..., 1], blocks[..., 2]
    across = ((-38 * red - 74 * green + 112 * blue + 512) >> 10) + 128
    along = ((112 * red - 94 * green - 18 * blue + 512) >> 10) + 128
    planes = np.concatenate([luma.ravel(), across.ravel(), along.ravel()])
    return planes.astype(np.uint8).reshape(height * 3 // 2, width)
