"""What is in the shards, to look at: a contact sheet of each split, and a page that plays clips."""

import io
import random
from bisect import bisect_right
from collections.abc import Sequence
from html import escape
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from data_tools.motion_tiles import motion_tiles
from data_tools.summary import document, split_folders, stats, table
from hvdm import building
from hvdm import config as configs
from hvdm.config import RunConfig
from hvdm.data import child
from hvdm.data.arrays import read_array
from hvdm.data.clips import resize
from hvdm.data.decode import CannotDecode
from hvdm.data.fields import LATENT_SUFFIX, VIDEO_SUFFIXES, about_of, media_frames, media_of
from hvdm.data.flow import SPECTRUM_SUFFIX
from hvdm.data.schema import DamagedSample, read_manifest
from hvdm.data.shards import ShardReader
from hvdm.disk import atomic_write
from hvdm.errors import UserError
from hvdm.media.pictures import gif
from hvdm.recipe import Noise, to_pixels

TILE = 96
TILES = 8
FPS = 4


class ShownSample(NamedTuple):
    """A sample on the page."""

    key: str
    about: dict[str, Any]
    suffix: str
    media: bytes
    strip: npt.NDArray[np.uint8]


def preview(
    folder: str | Path,
    count: int = 24,
    seed: int = 0,
    out: str | None = None,
    config: RunConfig | None = None,
) -> Path:
    """Writes `index.html`, sheets and clips; which clips are shown depends on the seed alone.

    With a config, what its recipe makes of them.
    """
    if count < 1:
        raise UserError(f"count={count} is below 1")
    folder = Path(folder)
    target = Path(out) if out else folder / "preview"
    target.mkdir(parents=True, exist_ok=True)
    numbers = stats(folder)
    body = [f"<h1>{escape(folder.name)}</h1>"]
    for split in split_folders(folder):
        chosen = _chosen(split, count, seed, config)
        sheet = target / f"{split.name}.png"
        atomic_write(sheet, _png(np.concatenate([one.strip for one in chosen])))
        body += [f"<h2>{escape(split.name)}</h2>", table(numbers[split.name].items())]
        body += [_figure(target, split.name, one) for one in chosen]
        body.append(f'<p><img src="{sheet.name}" alt="contact sheet of {escape(split.name)}"></p>')
    page = target / "index.html"
    atomic_write(page, document(folder.name, "\n".join(body)))
    return page


def _chosen(split: Path, count: int, seed: int, config: RunConfig | None) -> list[ShownSample]:
    manifest = read_manifest(split)
    reader = ShardReader(split, manifest)
    ends = list(accumulate(shard.samples for shard in manifest.shards))
    total = manifest.samples
    picked = sorted(random.Random(seed).sample(range(total), min(count, total)))
    shown = [_shown(reader, *_place(ends, number)) for number in picked]
    if config is None:
        return shown
    made = _made(config, split.name, picked)
    return [_with_frames(one, frames) for one, frames in zip(shown, made, strict=True)]


def _made(config: RunConfig, split: str, numbers: Sequence[int]) -> npt.NDArray[np.uint8]:
    """`N T H W 3`: samples by their number, as the recipe's module previews them."""
    module = building.recipe_module(config.recipe)
    previews = vars(module).get("previews")
    if previews is None:
        raise UserError(f"{config.recipe} makes no frames of samples to look at; leave config= out")
    model = configs.parse(module.Config, config.model, "model")
    with building.build_loader(config, split) as loader:
        batch = loader.sequential(numbers)
    frames = to_pixels(previews(model, batch, Noise(config.seed, batch.draws)))
    pixels: npt.NDArray[np.uint8] = frames.numpy()
    return pixels


def _with_frames(one: ShownSample, frames: npt.NDArray[np.uint8]) -> ShownSample:
    strip = np.concatenate([_tile(frame) for frame in frames], axis=1)
    return one._replace(suffix="gif", media=gif(torch.from_numpy(frames), FPS), strip=strip)


def _place(ends: Sequence[int], number: int) -> tuple[int, int]:
    """The shard of a sample and its number there."""
    shard = bisect_right(ends, number)
    return shard, number - (ends[shard - 1] if shard else 0)


def _shown(reader: ShardReader, shard: int, index: int) -> ShownSample:
    key, parts = reader.key(shard, index), reader.sample(shard, index)
    if LATENT_SUFFIX in parts:
        raise UserError("latents cannot be looked at; preview the clips that they were made of")
    try:
        strip = child.call(_strip, parts)
        suffix, media = media_of(parts)
        about = about_of(parts)
    except (CannotDecode, child.Failed) as error:
        raise DamagedSample(reader.manifest.shards[shard].name, key, str(error)) from None
    return ShownSample(key, about, suffix, media, strip)


def _strip(parts: dict[str, bytes]) -> npt.NDArray[np.uint8]:
    """Some of the frames side by side, or a picture's motion; in a child, and never all frames in
    memory."""
    if SPECTRUM_SUFFIX in parts:
        picture = next(iter(media_frames(parts)))
        volume = read_array(parts[SPECTRUM_SUFFIX], "its spectrum").astype(np.float32)
        return np.concatenate(motion_tiles(picture, volume, TILE), axis=1)
    count = sum(1 for _ in media_frames(parts))
    at = np.linspace(0, count - 1, TILES).round().astype(int).tolist()
    tiles = {n: _tile(one) for n, one in enumerate(media_frames(parts)) if n in at}
    return np.concatenate([tiles[n] for n in at], axis=1)


def _tile(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = frame.shape[:2]
    tall = TILE if height <= width else round(TILE * height / width)
    tile = resize(frame[None], tall, TILE)[0, :TILE]
    square = np.zeros((TILE, TILE, 3), np.uint8)
    square[: len(tile)] = tile
    return square


def _figure(target: Path, split: str, one: ShownSample) -> str:
    name = f"{split}-{one.key}.{one.suffix}"
    (target / name).write_bytes(one.media)
    words = [one.key, *_words(one.about)]
    tag = (
        f'<video src="{name}" autoplay loop muted controls playsinline></video>'
        if one.suffix in VIDEO_SUFFIXES
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
