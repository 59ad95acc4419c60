"""A user's picture as the first frame of a clip, by a rule that is the same for any size."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hvdm.data.clips import resize
from hvdm.errors import UserError

Pixels = npt.NDArray[np.uint8]
FITS = ("crop", "pad")
PAPER = (255, 255, 255, 255)
"""What is behind a transparent picture."""


def read(path: Path, height: int, width: int, fit: str = "crop") -> Pixels:
    """`H W 3` of any picture file.

    Turned as its camera says, of an animation the first frame, on white where it is transparent.
    crop: the largest centred part of the clip's aspect, scaled as training clips are. pad: all of
    it, scaled to fit, the pixels of its border repeated around it.
    """
    pixels = _decoded(path)
    if fit == "crop":
        return resize(pixels[None], height, width)[0]
    return _padded(pixels, height, width)


def _decoded(path: Path) -> Pixels:
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(path.read_bytes())) as image:
                image.seek(0)
                return _on_paper(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise UserError(f"image={path}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"image={path} is a folder; give one picture") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(
            f"image={path} has more than {Image.MAX_IMAGE_PIXELS} pixels; make it smaller"
        ) from None
    except (Image.UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError) as error:
        reason = "its content is no picture"
        if not isinstance(error, Image.UnidentifiedImageError):
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"image={path} cannot be read as a picture ({reason}); give a png, jpeg, gif or webp"
        ) from None


def _on_paper(image: Any) -> Pixels:
    from PIL import Image

    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        return _from_deep(np.asarray(image, np.float64))
    solid = image.convert("RGBA")
    paper = Image.new("RGBA", solid.size, PAPER)
    return np.asarray(Image.alpha_composite(paper, solid).convert("RGB"))


def _from_deep(values: npt.NDArray[np.float64]) -> Pixels:
    """Grey of more than 8 bits; Pillow would cut off what is above 255."""
    most = values.max()
    grey = values * (255 / 65535 if most > 255 else 1.0)
    return np.repeat(grey.clip(0, 255).round().astype(np.uint8)[..., None], 3, axis=2)


def _padded(pixels: Pixels, height: int, width: int) -> Pixels:
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    tall, wide = (
        min(limit, max(1, round(side * scale)))
        for side, limit in zip(pixels.shape[:2], (height, width), strict=True)
    )
    small = _scaled(pixels, tall, wide)
    top, left = (height - tall) // 2, (width - wide) // 2
    around = ((top, height - tall - top), (left, width - wide - left), (0, 0))
    return np.pad(small, around, mode="edge")


def _scaled(pixels: Pixels, height: int, width: int) -> Pixels:
    from PIL import Image

    scaled = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(scaled)
