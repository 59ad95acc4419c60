"""A spectral volume to look at: its motion as colour and as arrows, and its frequencies."""

import colorsys
from typing import Any

import numpy as np
import numpy.typing as npt

from hvdm.data.clips import resize

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating[Any]]
ARROWS = 8
"""Along a side of the tile."""
INK, PAPER, BAR = (245, 214, 66), (22, 24, 28), (125, 179, 255)


def motion_tiles(picture: Pixels, volume: Floats, side: int) -> list[Pixels]:
    """`H W 3` and `K 2 2 H W` -> square tiles: the picture, colours, arrows, a spectrum.

    Colours and arrows are of the frequency that moves most, at its real part's moment.
    """
    sizes = np.sqrt((volume.astype(np.float64) ** 2).sum((1, 2)).mean((1, 2)))
    strongest = 1 + int(sizes[1:].argmax()) if len(sizes) > 1 else 0
    vectors = volume[strongest, 0].astype(np.float64)
    small = resize(picture[None], side, side)[0]
    coloured = resize(flow_colours(vectors)[None], side, side)[0]
    return [small, coloured, _arrows(small, vectors), _bars(sizes, side)]


def flow_colours(vectors: Floats) -> Pixels:
    """`2 H W` -> `H W 3`: hue is the direction, brightness the length; the longest is full."""
    x, y = vectors
    length = np.hypot(x, y)
    share = length / max(float(length.max()), 1e-9)
    wheel = np.array([colorsys.hsv_to_rgb(step / 360, 1, 1) for step in range(360)])
    hues = np.degrees(np.arctan2(y, x)).astype(int) % 360
    return np.rint(255 * wheel[hues] * share[..., None]).astype(np.uint8)


def _arrows(picture: Pixels, vectors: Floats) -> Pixels:
    """Over the picture, darkened; the longest as long as places are apart."""
    from PIL import Image, ImageDraw

    side = len(picture)
    image = Image.fromarray((picture * 0.6).astype(np.uint8))
    draw, apart = ImageDraw.Draw(image), side / ARROWS
    places = ((np.arange(ARROWS) + 0.5) / ARROWS)[:, None] * vectors.shape[1:]
    rows, columns = places.astype(int).T
    most = max(float(np.hypot(*vectors).max()), 1e-9)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            dx, dy = vectors[:, row, column] / most * apart
            x, y = (j + 0.5) * apart, (i + 0.5) * apart
            draw.line((x, y, x + dx, y + dy), fill=INK)
            draw.ellipse((x + dx - 1, y + dy - 1, x + dx + 1, y + dy + 1), fill=INK)
    return np.asarray(image)


def _bars(sizes: Floats, side: int) -> Pixels:
    """How large each frequency is, that of rest first."""
    tile = np.full((side, side, 3), PAPER, np.uint8)
    wide = max(2, side // len(sizes))
    for number, share in enumerate(sizes / max(float(sizes.max()), 1e-9)):
        left, tall = number * wide, round(share * (side - 2))
        tile[side - 1 - tall : side - 1, left : left + wide - 1] = BAR
    return tile
