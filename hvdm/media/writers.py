"""How samples are written and shown, by their medium."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hvdm.disk import atomic_write, replacing
from hvdm.media import mesh, pictures
from hvdm.recipe import to_pixels

FRAMES = "frames"
"""The folder of single frames, which a report leaves out."""
Write = Callable[[Any, Path, int], Path]
"""One sample beside a stem, at so many frames a second."""


@dataclass(frozen=True)
class SampleWriter:
    """Of one medium. `usual` are the formats that are written unless others are asked for."""

    rows: Callable[[Any], Iterable[Any]]
    """A batch as the recipe made it -> one sample for each draw, on the CPU."""
    formats: Mapping[str, Write]
    usual: tuple[str, ...]
    frames: Callable[[Any], Tensor] | None = None
    """Pictures of one, uint8 `T H W C`; None where there is nothing to see."""


def _to(suffix: str, write: Callable[[Any, Path, int], None]) -> Write:
    def written(sample: Any, stem: Path, fps: int) -> Path:
        path = stem.with_name(f"{stem.name}.{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write(sample, path, fps)
        return path

    return written


def _film_frames(video: Tensor, stem: Path, fps: int) -> Path:
    folder = stem.parent / FRAMES / stem.name
    pictures.write_frames(video, folder)
    return folder


def _array(value: Tensor, path: Path, fps: int) -> None:
    with replacing(path) as part:
        np.save(part, value.numpy())


def _page(text: str, path: Path, fps: int) -> None:
    atomic_write(path, text)


def _png(frames: Callable[[Any], Tensor]) -> Write:
    return _to("png", lambda sample, path, _: atomic_write(path, pictures.grid(frames(sample))))


def _image_rows(images: Tensor) -> Tensor:
    """`B C H W` -> uint8 `B 1 H W 3`."""
    return to_pixels(images.expand(-1, 3, -1, -1).unsqueeze(2)).cpu()


def _grey(depth: Tensor) -> Tensor:
    """`H W`, near bright and far dark."""
    low, high = depth.amin(), depth.amax()
    near = (high - depth) / (high - low).clamp_min(1e-12)
    return (255 * near).round().to(torch.uint8)[None, :, :, None].expand(-1, -1, -1, 3)


def _swings(spectrum: Tensor) -> Tensor:
    """`K 2 H W`: a frame for each frequency, red what swings sideways and green up and down."""
    size = spectrum.abs() / spectrum.abs().amax().clamp_min(1e-12)
    coloured = torch.cat([size, torch.zeros_like(size[:, :1])], 1)
    return (255 * coloured).round().to(torch.uint8).movedim(1, -1)


WRITERS: Mapping[str, SampleWriter] = {
    "film": SampleWriter(
        lambda video: to_pixels(video).cpu(),
        {
            "mp4": _to("mp4", pictures.write_mp4),
            "gif": _to("gif", pictures.write_gif),
            FRAMES: _film_frames,
        },
        ("mp4", "gif"),
        lambda video: video,
    ),
    "images": SampleWriter(
        _image_rows, {"png": _png(lambda image: image)}, ("png",), lambda image: image
    ),
    "depth": SampleWriter(
        lambda depth: depth.float().cpu(),
        {"png": _png(_grey), "npy": _to("npy", _array)},
        ("png", "npy"),
        _grey,
    ),
    "spectrum": SampleWriter(
        lambda spectrum: spectrum.cpu(),
        {"png": _png(_swings), "npy": _to("npy", _array)},
        ("png", "npy"),
        _swings,
    ),
    "mesh": SampleWriter(
        lambda meshes: meshes,
        {"glb": _to("glb", lambda sample, path, _: mesh.write_glb(sample, path))},
        ("glb",),
        lambda sample: mesh.picture(sample)[None],
    ),
    "page": SampleWriter(lambda pages: pages, {"html": _to("html", _page)}, ("html",)),
}
