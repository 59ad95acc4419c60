"""Pictures and films of clips: uint8 `B T H W C` in, PNG, mp4 or gif out."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from hvdm.disk import atomic_write, replacing
from hvdm.errors import UserError

Pixels = npt.NDArray[np.uint8]
GAP, MARGIN, TEXT = 2, 8, 14
LEAST_SIDE = 64
"""Smaller frames are enlarged by whole numbers, or there is nothing to see."""
MOST_FRAMES = 8
GAIN = 4
"""How many times the difference of two clips is amplified."""
PAPER, INK = (255, 255, 255), (60, 60, 60)


def contact_sheet(
    clips: Tensor,
    captions: Sequence[str] | None = None,
    frames: int = MOST_FRAMES,
    given: Tensor | None = None,
) -> bytes:
    """A PNG with rows of frames for each clip, and what was asked for written under them.

    `given` is the picture `H W C` that they were to begin with; it stands in front of each.
    """
    _check(clips)
    titles = list(captions) if captions is not None else [f"{i}" for i in range(len(clips))]
    if len(titles) != len(clips):
        raise UserError(f"{len(titles)} captions for {len(clips)} clips: give one for each")
    rows = [_told(_filmstrip(clips[i], frames, given), title) for i, title in enumerate(titles)]
    return _png(_stack(rows))


def grid(images: Tensor) -> bytes:
    """A PNG of pictures `B H W C` side by side, eight in a row."""
    _check(images[None])
    return _png(_filmstrip(images, len(images)))


def chosen_frames(video: Tensor, count: int = MOST_FRAMES) -> Tensor:
    """At most `count` frames of `T H W C`, the first and the last among them."""
    count = min(count, len(video))
    return video[np.linspace(0, len(video) - 1, count).round().astype(int)]


def strips(
    original: Tensor, reconstruction: Tensor, captions: Sequence[str] | None = None
) -> bytes:
    """A PNG: for each clip its frames, those of its reconstruction, and their difference."""
    _check(original)
    _check(reconstruction)
    if original.shape != reconstruction.shape:
        raise UserError(
            f"originals {tuple(original.shape)} and reconstructions "
            f"{tuple(reconstruction.shape)} differ in shape"
        )
    apart = (original.int() - reconstruction.int()).abs() * GAIN
    rows = {
        "original": original,
        "reconstruction": reconstruction,
        f"difference x{GAIN}": apart.clamp(max=255).to(torch.uint8),
    }
    pictures = []
    for i in range(len(original)):
        name = f"{captions[i]}  " if captions else ""
        pictures += [_titled(_filmstrip(v[i]), f"{name}{title}") for title, v in rows.items()]
    return _png(_stack(pictures))


H264 = {"crf": "14", "threads": "1", "x264-params": "mbtree=0"}
"""With a macroblock tree, x264 makes unequal bytes of equal small frames."""


def write_mp4(video: Tensor, path: Path, fps: int = 8) -> None:
    """h264 of one clip `T H W C`, which browsers play; odd sides lose their last line."""
    import av

    _check(video[None])
    pixels = _enlarged(video)
    pixels = pixels[:, : pixels.shape[1] // 2 * 2, : pixels.shape[2] // 2 * 2]
    path.parent.mkdir(parents=True, exist_ok=True)
    faststart = {"movflags": "+faststart"}
    with (
        replacing(path) as part,
        av.open(str(part), "w", format="mp4", options=faststart) as container,
    ):
        stream = container.add_stream("libx264", rate=fps, options=H264)
        stream.height, stream.width, stream.pix_fmt = pixels.shape[1], pixels.shape[2], "yuv420p"
        for frame in pixels:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def write_gif(video: Tensor, path: Path, fps: int = 8) -> None:
    """An endless gif of one clip `T H W C`."""
    _write(path, gif(video, fps))


def gif(video: Tensor, fps: int) -> bytes:
    _check(video[None])
    first, *rest = [Image.fromarray(frame) for frame in _enlarged(video)]
    data = io.BytesIO()
    first.save(data, "GIF", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
    return data.getvalue()


def write_frames(video: Tensor, folder: Path) -> None:
    """Each frame of `T H W C` as it is, in a PNG of its own."""
    _check(video[None])
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(video.cpu().numpy()):
        atomic_write(folder / f"{number:04d}.png", _png(Image.fromarray(frame)))


def write_previews(
    folder: Path, step: int, what: str, original: Tensor, generated: Tensor
) -> list[Path]:
    """What an evaluation saw: strips, or a contact sheet and the clips as one film; or a grid."""
    stem = folder / f"{what}-step-{step:08d}"
    if what != "reconstructions" and generated.shape[1] == 1:
        _write(stem.with_suffix(".png"), grid(generated[:, 0]))
        return [stem.with_suffix(".png")]
    picture = strips(original, generated) if what == "reconstructions" else contact_sheet(generated)
    _write(stem.with_suffix(".png"), picture)
    films = torch.cat(list(generated), dim=2)
    if what == "reconstructions":
        films = torch.cat([torch.cat(list(original), dim=2), films], dim=1)
    write_mp4(films, stem.with_suffix(".mp4"))
    return [stem.with_suffix(".png"), stem.with_suffix(".mp4")]


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, data)


def _check(clips: Tensor) -> None:
    if clips.dtype != torch.uint8 or clips.dim() != 5 or clips.shape[-1] != 3:
        raise UserError(
            f"pictures are made of uint8 B T H W 3, got {clips.dtype} {tuple(clips.shape)}"
        )


def _enlarged(video: Tensor) -> Pixels:
    """`T H W C`, each pixel repeated until the shorter side is large enough."""
    pixels: Pixels = video.cpu().numpy()
    factor = max(1, -(-LEAST_SIDE // min(pixels.shape[1:3])))
    return pixels.repeat(factor, axis=1).repeat(factor, axis=2)


def _filmstrip(video: Tensor, most: int = MOST_FRAMES, given: Tensor | None = None) -> Image.Image:
    """Frames from left to right, eight in a row, the first and the last of the clip among them."""
    frames = _enlarged(chosen_frames(video, most))
    height, width = frames.shape[1:3]
    columns = min(MOST_FRAMES, len(frames))
    rows = -(-len(frames) // columns)
    left = 0 if given is None else width + 4 * GAP
    size = (left + columns * (width + GAP) - GAP, rows * (height + GAP) - GAP)
    strip = Image.new("RGB", size, PAPER)
    if given is not None:
        strip.paste(Image.fromarray(_enlarged(given[None])[0]), (0, 0))
    for i, frame in enumerate(frames):
        row, column = divmod(i, columns)
        place = (left + column * (width + GAP), row * (height + GAP))
        strip.paste(Image.fromarray(frame), place)
    return strip


def _titled(picture: Image.Image, title: str) -> Image.Image:
    return _with_text(picture, title, 0, TEXT + GAP)


def _told(picture: Image.Image, text: str) -> Image.Image:
    return _with_text(picture, text, picture.height + GAP, 0)


def _with_text(picture: Image.Image, text: str, at: int, top: int) -> Image.Image:
    """Text at this height beside a picture at that one; the sheet is as wide as both need."""
    font = ImageFont.load_default(size=11)
    width = max(picture.width, round(font.getlength(text)) + 1)
    sheet = Image.new("RGB", (width, picture.height + TEXT + GAP), PAPER)
    ImageDraw.Draw(sheet).text((0, at), text, INK, font=font)
    sheet.paste(picture, (0, top))
    return sheet


def _stack(pictures: Sequence[Image.Image]) -> Image.Image:
    width = max(picture.width for picture in pictures) + 2 * MARGIN
    height = sum(picture.height + MARGIN for picture in pictures) + MARGIN
    sheet, top = Image.new("RGB", (width, height), PAPER), MARGIN
    for picture in pictures:
        sheet.paste(picture, (MARGIN, top))
        top += picture.height + MARGIN
    return sheet


def _png(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=True)
    return data.getvalue()
