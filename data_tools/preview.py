"""What is in the shards, to look at: a contact sheet of each split, and a page that plays clips."""

import io
import random
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_tools.summary import document, split_folders, stats, table
from hvdm.data.clips import resize
from hvdm.data.fields import LATENT_SUFFIX, about_of, media_of, read_media
from hvdm.data.schema import atomic_write, read_manifest
from hvdm.data.shards import ShardReader
from hvdm.errors import UserError

TILE = 96
TILES = 8


class ShownSample(NamedTuple):
    """A sample on the page."""

    key: str
    about: dict[str, Any]
    suffix: str
    media: bytes
    strip: npt.NDArray[np.uint8]


def preview(folder: str | Path, count: int = 24, seed: int = 0, out: str | None = None) -> Path:
    """Writes `index.html`, sheets and clips; which clips are shown depends on the seed alone."""
    if count < 1:
        raise UserError(f"count={count} is below 1")
    folder = Path(folder)
    target = Path(out) if out else folder / "preview"
    target.mkdir(parents=True, exist_ok=True)
    numbers = stats(folder)
    body = [f"<h1>{escape(folder.name)}</h1>"]
    for split in split_folders(folder):
        chosen = _chosen(split, count, seed)
        sheet = target / f"{split.name}.png"
        atomic_write(sheet, _png(np.concatenate([one.strip for one in chosen])))
        body += [f"<h2>{escape(split.name)}</h2>", table(numbers[split.name].items())]
        body += [_figure(target, split.name, one) for one in chosen]
        body.append(f'<p><img src="{sheet.name}" alt="contact sheet of {escape(split.name)}"></p>')
    page = target / "index.html"
    atomic_write(page, document(folder.name, "\n".join(body)).encode())
    return page


def _chosen(split: Path, count: int, seed: int) -> list[ShownSample]:
    manifest = read_manifest(split)
    reader = ShardReader(split, manifest)
    places = [(n, i) for n, shard in enumerate(manifest.shards) for i in range(shard.samples)]
    picked = sorted(random.Random(seed).sample(places, min(count, len(places))))
    return [_shown(reader, *place) for place in picked]


def _shown(reader: ShardReader, shard: int, index: int) -> ShownSample:
    key, parts = reader.key(shard, index), reader.sample(shard, index)
    if LATENT_SUFFIX in parts:
        raise UserError("latents cannot be looked at; preview the clips that they were made of")
    suffix, media = media_of(parts)
    return ShownSample(key, about_of(parts), suffix, media, _strip(read_media(parts)))


def _strip(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Some of the frames side by side."""
    at = np.linspace(0, len(frames) - 1, TILES).round().astype(int)
    height, width = frames.shape[1:3]
    tall = TILE if height <= width else round(TILE * height / width)
    tiles = resize(frames[at], tall, TILE)[:, :TILE]
    square = np.zeros((TILES, TILE, TILE, 3), np.uint8)
    square[:, : tiles.shape[1]] = tiles
    return np.concatenate(list(square), axis=1)


def _figure(target: Path, split: str, one: ShownSample) -> str:
    name = f"{split}-{one.key}.{one.suffix}"
    (target / name).write_bytes(one.media)
    words = [one.key, *_words(one.about)]
    tag = (
        f'<video src="{name}" autoplay loop muted controls playsinline></video>'
        if one.about.get("frames", 1) > 1
        else f'<img src="{name}" alt="{escape(one.key)}">'
    )
    return f"<figure>{tag}<figcaption>{escape(', '.join(words))}</figcaption></figure>"


def _words(about: dict[str, Any]) -> Sequence[str]:
    keys = ("class", "caption", "description", "frames", "fps", "motion", "source")
    return [f"{key} {about[key]}" for key in keys if about.get(key) is not None]


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
