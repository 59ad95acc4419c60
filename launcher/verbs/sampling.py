"""`hvdm sample`: clips, long videos, pictures that move; by this process or by workers."""

import functools
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eval.clips.subject import CheckpointModel, cache_model, exact_arithmetic, open_model
from eval.report.embedded import FRAMES
from hvdm import opening
from hvdm.config import ClusterConfig, parse
from hvdm.errors import UserError, closest
from hvdm.events import duration
from hvdm.media import photo, pictures
from hvdm.recipe import Noise, SampleRequest, to_pixels
from launcher import compose
from launcher.arguments import Arguments
from launcher.progress import Progress
from launcher.workers import cluster

KINDS = ("clip", "long", "image", "dynamics")
WRITTEN = ("mp4", "gif", "frames")
BATCH = 8
MOST_SHOWN = 32
"""Clips on one contact sheet; films of all are written."""
SHOWN_FRAMES = {"long": 32}
"""Frames of each on the sheet, where they are more than a row."""

Draws = tuple[int, ...]
Drawn = tuple[Draws, Tensor]


@dataclass(frozen=True)
class SampleOrder:
    """What was asked for, as far as every recipe understands it."""

    what: str
    count: int
    batch: int
    seed: int
    steps: int | None
    fps: int
    written: tuple[str, ...]
    image: Path | None
    fit: str
    options: Mapping[str, str] = field(default_factory=dict)

    def batches(self) -> list[Draws]:
        whole = range(self.count)
        return [tuple(whole[i : i + self.batch]) for i in range(0, self.count, self.batch)]

    def name(self, draw: int) -> str:
        kind = "" if self.what == "clip" else f"{self.what}-"
        return f"{kind}seed-{self.seed}-{draw:04d}"

    def caption(self, draw: int) -> str:
        """What clip `draw` was asked to be: of several values, given with commas, it has one."""
        told = {"image": self.image.name} if self.image else {}
        for key, value in self.options.items():
            values = value.split(",")
            told[key] = values[draw % len(values)].strip()
        words = [f"{key} {value}" for key, value in told.items()]
        return ", ".join([f"{self.what}, seed {self.seed}, number {draw}", *words])


@dataclass(frozen=True)
class Drawing:
    """A batch of clips from its draws: all that a worker needs."""

    model: CheckpointModel
    request: SampleRequest
    seed: int
    device: str

    def __call__(self, draws: Draws, tell: Callable[[float], None] | None = None) -> Drawn:
        opened = open_model(self.model, self.device)
        request = replace(self.request, progress=tell)
        with exact_arithmetic(opened.config.engine.threads):
            noise = Noise(self.seed, draws, device=self.device)
            return draws, to_pixels(opened.recipe.sample(opened.nets, request, noise)).cpu()


def sample(given: Arguments) -> int:
    reference = given.need("run", "runs/tiny/hvdm_diffusion")
    where, order, out = _cluster(given), _order(given), given.take("out")
    opened = opening.open_run(reference)
    order = replace(order, options=_options(given, opened, order.what))
    image = _image(order, opened)
    folder = Path(out) if out else opened.run / "samples" / f"step-{opened.step:08d}"
    began = time.monotonic()
    paths = _write(_draw(opened, order, image, where), order, image, folder)
    _tell(given.json, opened, order, paths, time.monotonic() - began)
    return 0


def _tell(
    as_json: bool, opened: opening.Opened, order: SampleOrder, paths: list[Path], seconds: float
) -> None:
    """What was asked for and what came, beside the sheet and to whoever asked."""
    answer = {
        "run": str(opened.run),
        "step": opened.step,
        "weights": opened.weights_hash,
        "what": order.what,
        "seed": order.seed,
        "count": order.count,
        "steps": order.steps,
        "options": {**order.options, **({"image": str(order.image)} if order.image else {})},
        "seconds": round(seconds, 1),
        "files": [str(path) for path in paths],
    }
    paths[0].with_suffix(".json").write_text(json.dumps(answer, indent=1) + "\n")
    if as_json:
        print(json.dumps(answer, indent=1))
    else:
        where, took = paths[0].parent, duration(seconds)
        print(f"{len(paths)} files in {where} ({took}); look at {paths[0]}")


# What is asked for


def _order(given: Arguments) -> SampleOrder:
    what = given.take("what", "clip") or "clip"
    if what not in KINDS:
        raise UserError(f"what={what!r} cannot be sampled; {closest(what, KINDS)}")
    image, fit = given.take("image"), given.take("fit", "crop") or "crop"
    if fit not in photo.FITS:
        raise UserError(f"fit={fit!r}; {closest(fit, photo.FITS)}")
    return SampleOrder(
        what=what,
        count=_at_least_one(given, "count", 8),
        batch=_at_least_one(given, "batch", BATCH),
        seed=given.integer("seed", 0) or 0,
        steps=given.integer("steps"),
        fps=_at_least_one(given, "fps", 8),
        written=_written(given.take("write", "mp4,gif") or ""),
        image=Path(image).expanduser() if image else None,
        fit=fit,
    )


def _at_least_one(given: Arguments, key: str, default: int) -> int:
    value = given.integer(key, default)
    if value is None or value < 1:
        raise UserError(f"{key}={value} is below 1")
    return value


def _written(text: str) -> tuple[str, ...]:
    chosen = tuple(part for part in text.split(",") if part)
    for one in chosen:
        if one not in WRITTEN:
            raise UserError(f"write={one!r}; {closest(one, WRITTEN)}")
    return chosen


def _cluster(given: Arguments) -> ClusterConfig:
    """One process unless a cluster is named, or more workers than one are."""
    workers = given.integer("workers")
    keys = [f"{key}={given.take(key)}" for key in given.values if key.startswith("cluster.")]
    if workers is not None:
        keys.append(f"cluster.workers={workers}")
    name = given.take("cluster") or ("local" if keys else "inline")
    where = parse(ClusterConfig, compose.group("cluster", name, keys), "cluster")
    if where.name == "inline" and where.workers != 1:
        raise UserError(f"workers={where.workers} needs cluster=local or existing; inline is one")
    return where


def _options(given: Arguments, opened: opening.Opened, what: str) -> dict[str, str]:
    """What the verb does not know is for the recipe, which says what it takes."""
    kinds: Mapping[str, Sequence[str]] = getattr(opened.recipe, "samples", {"clip": ()})
    if what not in kinds:
        raise UserError(f"what={what}: {opened.run} samples only {', '.join(kinds)}")
    options = {key: given.take(key) or "" for key in given.values if key in kinds[what]}
    options.pop("image", None)
    if given.take("image") and "image" not in kinds[what]:
        raise UserError(f"image=: what={what} takes no picture")
    for key in given.values:
        if key not in given.taken:
            known = [*given.taken, *kinds[what]]
            raise UserError(f"unknown key {key!r} for what={what}; {closest(key, known)}")
    return options


def _image(order: SampleOrder, opened: opening.Opened) -> Tensor | None:
    if order.image is None:
        return None
    data = opened.config.data
    pixels = photo.read(order.image, data.height, data.width, order.fit)
    return torch.from_numpy(np.array(pixels))


# Drawing


def _draw(
    opened: opening.Opened, order: SampleOrder, image: Tensor | None, where: ClusterConfig
) -> Iterable[Drawn]:
    """Batches as they are done; a clip is a function of the seed and its number."""
    device = "cuda" if where.gpus_per_worker else "cpu"
    model = CheckpointModel(
        str(opened.run.absolute()), opened.step, opened.weights_hash, averaged=True
    )
    options = {**order.options, **({} if image is None else {"image": image})}
    request = SampleRequest(order.what, order.steps, options or None)
    drawing = Drawing(model, request, order.seed, device)
    told = _Told(order, Progress(sys.stderr))
    if where.name == "inline":
        if device == "cpu":
            cache_model(model, opened, device)
        found: Iterable[Drawn] = map(functools.partial(drawing, tell=told.within), order.batches())
    else:
        found = cluster.stream(where)(drawing, order.batches())
    for draws, pixels in found:
        told.batch(len(draws))
        yield draws, pixels


class _Told:
    """How far it is and how long it takes, in a line that moves or lines now and then."""

    def __init__(self, order: SampleOrder, progress: Progress) -> None:
        self._order, self._progress = order, progress
        self._began, self._done = time.monotonic(), 0

    def within(self, share: float) -> None:
        """Of the batch that is being drawn."""
        self._say(self._done + share * min(self._order.batch, self._order.count - self._done))

    def batch(self, clips: int) -> None:
        self._done += clips
        self._say(self._done)

    def _say(self, clips: float) -> None:
        count, spent = self._order.count, time.monotonic() - self._began
        left = duration(spent / clips * (count - clips))
        self._progress.say(f"{clips / count:.0%} of {count} videos, {left} left")


# Writing


def _write(
    drawn: Iterable[Drawn], order: SampleOrder, image: Tensor | None, folder: Path
) -> list[Path]:
    """Films as the clips come, and one sheet of the first of them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[int, list[Path]] = {}
    shown: dict[int, Tensor] = {}
    most = SHOWN_FRAMES.get(order.what, pictures.MOST_FRAMES)
    for draws, pixels in drawn:
        for draw, video in zip(draws, pixels, strict=True):
            paths[draw] = _write_one(video, folder / order.name(draw), order)
            if draw < MOST_SHOWN:
                shown[draw] = pictures.chosen_frames(video, most)
    numbers = sorted(shown)
    captions = [order.caption(draw) for draw in numbers]
    sheet = folder / f"{order.name(0).removesuffix('-0000')}-sheet.png"
    clips = torch.stack([shown[draw] for draw in numbers])
    sheet.write_bytes(pictures.contact_sheet(clips, captions, most, image))
    return [sheet, *(path for draw in sorted(paths) for path in paths[draw])]


def _write_one(video: Tensor, stem: Path, order: SampleOrder) -> list[Path]:
    made = []
    if "mp4" in order.written:
        made.append(stem.with_suffix(".mp4"))
        pictures.write_mp4(video, made[-1], order.fps)
    if "gif" in order.written:
        made.append(stem.with_suffix(".gif"))
        pictures.write_gif(video, made[-1], order.fps)
    if "frames" in order.written:
        made.append(stem.parent / FRAMES / stem.name)
        pictures.write_frames(video, made[-1])
    return made
