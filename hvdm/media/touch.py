"""A page with a picture that can be dragged: one HTML file with everything in it.

Each frequency is a mode that swings by itself when it is let go (arXiv 2309.07906, supplement 1;
after image-space modal bases, Davis et al. 2015). The picture is a mesh, whose points move by the
sum of the modes.
"""

import base64
import io
import json
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

CELL, MOST_CELLS = 4, 128
"""Pixels along a mesh's cell, and how many along its longer side at most."""
LEVELS = 127
MARK = "/*DATA*/"

Spectrum = npt.NDArray[np.complexfloating[Any, Any]]


@dataclass(frozen=True)
class Feel:
    """Where the sliders begin."""

    stiffness: float = 1.0
    damping: float = 1.0
    strength: float = 1.0


def touch_page(
    picture: npt.NDArray[np.uint8], spectrum: Spectrum, frames: int, seconds: float, feel: Feel
) -> str:
    """`H W 3` and complex `K 2 H W` in pixels, of motion so long -> HTML."""
    data = {**asdict(feel), **mesh_data(picture, spectrum, frames, seconds)}
    return template().replace(MARK, json.dumps(data, separators=(",", ":")))


def template() -> str:
    return files("hvdm.media").joinpath("touch.html").read_text()


def mesh_data(
    picture: npt.NDArray[np.uint8], spectrum: Spectrum, frames: int, seconds: float
) -> dict[str, Any]:
    """What the page is told: `modes` are bytes `K Y X 4`, each frequency's times its `scales`.

    Displacements are the sum over k of Re(S_k q_k), so amplitudes are 2 / T of the unnormalised
    spectrum. The mean, frequency 0, is no mode.
    """
    height, width = picture.shape[:2]
    cell = max(CELL, -(-max(height, width) // MOST_CELLS))
    columns, rows = -(-width // cell) + 1, -(-height // cell) + 1
    modes = 2 / frames * at_points(spectrum[1:], rows, columns)
    parts = np.stack([modes.real[:, 0], modes.real[:, 1], modes.imag[:, 0], modes.imag[:, 1]], -1)
    scales = np.abs(parts).max((1, 2, 3)).clip(1e-9)
    levels = np.rint(parts / scales[:, None, None, None] * LEVELS).astype(np.int8)
    return {
        "width": width,
        "height": height,
        "columns": columns,
        "rows": rows,
        "hertz": [(k + 1) / seconds for k in range(len(modes))],
        "scales": [float(scale) / LEVELS for scale in scales],
        "modes": base64.b64encode(levels.tobytes()).decode(),
        "picture": _data_url(picture),
    }


def at_points(spectrum: Spectrum, rows: int, columns: int) -> Spectrum:
    """`K 2 H W` at the corners of a mesh's cells, `K 2 Y X`, linear between pixels."""
    height, width = spectrum.shape[-2:]
    y = np.linspace(0, height - 1, rows)
    x = np.linspace(0, width - 1, columns)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    below, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    v, u = (y - top)[:, None], x - left
    upper = spectrum[..., top, :][..., left] * (1 - u) + spectrum[..., top, :][..., right] * u
    lower = spectrum[..., below, :][..., left] * (1 - u) + spectrum[..., below, :][..., right] * u
    return np.asarray(upper * (1 - v) + lower * v)


def _data_url(picture: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
