"""`hvdm sample`: what a run samples, by this process or by workers."""

import functools
import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.clips.subject import CheckpointModel, cache_model, exact_arithmetic, open_model
from hvdm import config as configs
from hvdm import opening, sampling
from hvdm.config import ClusterConfig
from hvdm.disk import atomic_write
from hvdm.errors import UserError, closest
from hvdm.events import duration
from hvdm.media import photo, pictures
from hvdm.media.writers import WRITERS, SampleWriter
from hvdm.opening import Opened
from hvdm.options import told
from hvdm.progress import Pace, Progress
from hvdm.recipe import SampleKind, SampleRequest
from launcher.run_options import SampleOptions
from launcher.workers import cluster

MOST_SHOWN = 32
"""Samples on one sheet, and frames on it of films that are longer than a clip; all are written."""

MOST_TAG = 44
"""Letters of what was asked for in a name; beyond that it is a hash."""

Draws = tuple[int, ...]
Drawn = tuple[Draws, Iterable[Any]]


@dataclass(frozen=True)
class SampleOrder:
    """What was asked for: `options` as they were typed, `pictures` of them as pixels."""

    request: SampleRequest
    kind: SampleKind
    stem: str
    """What its files' names begin with."""
    used: Mapping[str, Any]
    """All that makes it what it is, defaults included."""
    earlier: Mapping[str, Any]
    """What the json says where the same was asked for before."""
    count: int
    batch: int
    seed: int
    fps: int
    written: tuple[str, ...]
    options: Mapping[str, str]
    pictures: Mapping[str, Tensor]

    @property
    def what(self) -> str:
        return self.request.what

    @property
    def writer(self) -> SampleWriter:
        return WRITERS[self.kind.medium]

    def batches(self) -> list[Draws]:
        whole = range(self.count)
        return [tuple(whole[i : i + self.batch]) for i in range(0, self.count, self.batch)]

    def name(self, draw: int) -> str:
        return f"{self.stem}-{draw:04d}"

    def sheet(self, folder: Path) -> Path:
        return folder / _sheet_name(self.stem)

    @property
    def whole(self) -> bool:
        """No more of it lies there than is drawn now."""
        return self.count >= int(self.earlier.get("count", 0))

    def caption(self, draw: int) -> str:
        """What clip `draw` was asked to be: of several values, given with commas, it has one."""
        told = {key: Path(self.options[key]).name for key in self.pictures}
        for key, value in self.options.items():
            values = value.split(",")
            told.setdefault(key, values[draw % len(values)].strip())
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
            made = sampling.draw(opened, request, self.seed, draws)
        medium = opened.recipe.samples[request.what].medium
        return draws, WRITERS[medium].rows(made)


def sample(asked: SampleOptions) -> int:
    with opening.kept(asked.run):
        return _sampled(asked)


def _sampled(asked: SampleOptions) -> int:
    where, opened = asked.where(), opening.open_run(asked.run)
    folder = folder_of(asked, opened)
    order, began = order_of(asked, opened, folder), time.monotonic()
    _claim(opened, order, folder)
    paths = _write(_draw(opened, order, where), order, folder, opened.config.data.frames)
    _tell(asked.json, opened, order, paths, folder, time.monotonic() - began)
    return 0


def kinds_help(typed: Mapping[str, str]) -> str:
    """What the run can be asked for, where one is named."""
    run = typed.get("run")
    if run is None:
        return "what each kind of sample takes:  hvdm sample run=RUN --help"
    lines = []
    for name, kind in opening.open_run(run).recipe.samples.items():
        rows = [option.line() for option in told(kind.options)]
        width = max((len(typed) for typed, _ in rows), default=0)
        lines += ["", f"what={name}: {kind.about} ({kind.medium})"]
        lines += [f"  {typed:<{width}}  {about}" for typed, about in rows]
    return f"{run} samples:\n" + "\n".join(lines) if lines else f"{run} samples nothing"


def _claim(opened: Opened, order: SampleOrder, folder: Path) -> None:
    """The name is taken before the first file is there, so that nobody else writes under it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not order.earlier:
        _note(_answer(opened, order, []), order, folder)


def _note(answer: Mapping[str, Any], order: SampleOrder, folder: Path) -> None:
    text = json.dumps(answer, indent=1) + "\n"
    atomic_write(order.sheet(folder).with_suffix(".json"), text)


def _answer(opened: Opened, order: SampleOrder, paths: list[Path]) -> dict[str, Any]:
    return {
        "run": str(opened.run),
        "step": opened.step,
        "weights": opened.weights_hash,
        "what": order.what,
        "seed": order.seed,
        "count": max(order.count, int(order.earlier.get("count", 0))),
        "steps": order.used["steps"],
        "options": dict(order.options),
        "used": dict(order.used),
        "files": _lying(order, paths),
    }


def _lying(order: SampleOrder, paths: list[Path]) -> list[str]:
    """What was written now, and what the same request left there before."""
    before = [name for name in order.earlier.get("files", ()) if Path(name).exists()]
    return list(dict.fromkeys([*map(str, paths), *before]))


def _tell(
    as_json: bool,
    opened: Opened,
    order: SampleOrder,
    paths: list[Path],
    folder: Path,
    seconds: float,
) -> None:
    """What was asked for and what came, beside the sheet and to whoever asked."""
    answer = {**_answer(opened, order, paths), "seconds": round(seconds, 1)}
    _note(answer, order, folder)
    if as_json:
        print(json.dumps(answer, indent=1))
    else:
        took = duration(seconds)
        files = "1 file" if len(paths) == 1 else f"{len(paths)} files"
        print(f"{files} in {folder} ({took}); look at {paths[0]}")


# What is asked for


def folder_of(asked: SampleOptions, opened: Opened) -> Path:
    return Path(asked.out) if asked.out else opened.run / "samples" / f"step-{opened.step:08d}"


def order_of(asked: SampleOptions, opened: Opened, folder: Path) -> SampleOrder:
    what, kind = sampling.kind_of(opened.recipe, asked.what)
    options, shown = _options(asked, opened, what, kind)
    request = sampling.ask(opened.recipe, what, asked.steps, {**options, **shown})
    used = _used(asked, opened, request, shown)
    stem, earlier = _free(folder, _stem(asked, opened, what, options, shown), used)
    return SampleOrder(
        request=request,
        kind=kind,
        stem=stem,
        used=used,
        earlier=earlier,
        count=asked.count,
        batch=asked.batch,
        seed=asked.seed,
        fps=asked.fps,
        written=_written(asked.write, WRITERS[kind.medium]),
        options=options,
        pictures=shown,
    )


def _options(
    asked: SampleOptions, opened: Opened, what: str, kind: SampleKind
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What the verb does not know is for the recipe: as it was typed, and pictures as pixels."""
    if asked.fit not in photo.FITS:
        raise UserError(f"fit={asked.fit!r}; {closest(asked.fit, photo.FITS)}")
    known = [option.name for option in told(SampleOptions)]
    sampling.check_keys(opened.recipe, what, asked.options, known)
    options = dict(asked.options)
    return options, sampling.pictures_of(kind, options, opened.config.data, asked.fit)


def _used(
    asked: SampleOptions,
    opened: Opened,
    request: SampleRequest,
    shown: Mapping[str, Tensor],
) -> dict[str, Any]:
    """All that the samples are a function of, as json gives it back."""
    seen = {key: hashlib.sha256(one.numpy().tobytes()).hexdigest() for key, one in shown.items()}
    used = {
        "weights": opened.weights_hash,
        "what": request.what,
        "seed": asked.seed,
        "fps": asked.fps,
        **sampling.taken(opened.recipe, request),
        **seen,
    }
    found: dict[str, Any] = json.loads(json.dumps(used, default=str))
    return found


# Names


def _stem(
    asked: SampleOptions,
    opened: Opened,
    what: str,
    options: Mapping[str, str],
    shown: Mapping[str, Tensor],
) -> str:
    """The kind where it is not the usual one, the seed, and what was asked for besides."""
    kind = "" if what == next(iter(opened.recipe.samples)) else f"{what}-"
    words = {} if asked.steps is None else {"steps": str(asked.steps)}
    words |= {key: Path(text).stem if key in shown else text for key, text in options.items()}
    typed = "-".join(f"{key}-{text}" for key, text in words.items())
    tag = re.sub(r"[^A-Za-z0-9.]+", "-", typed).strip("-.")
    if len(tag) > MOST_TAG:
        tag = configs.digest(words)[:8]
    return f"{kind}seed-{asked.seed}" + (f"-{tag}" if tag else "")


def _free(folder: Path, stem: str, used: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The stem, or one with a hash where another request's files have it; and what the json says
    of this request, where it was made before.
    """
    for name in (stem, f"{stem}-{configs.digest(used)[:8]}"):
        told_there = folder / Path(_sheet_name(name)).with_suffix(".json")
        earlier = json.loads(told_there.read_text()) if told_there.is_file() else {}
        if earlier.get("used") == used:
            return name, earlier
        if not earlier and not any(folder.glob(f"{name}-[0-9][0-9][0-9][0-9].*")):
            break
    return name, {}


def _sheet_name(stem: str) -> str:
    return f"{stem}-sheet.png"


def _written(chosen: tuple[str, ...] | None, writer: SampleWriter) -> tuple[str, ...]:
    if chosen is None:
        return writer.usual
    for one in chosen:
        if one not in writer.formats:
            raise UserError(f"write={one!r}; {closest(one, writer.formats)}")
    return chosen


# Drawing


def _draw(opened: Opened, order: SampleOrder, where: ClusterConfig) -> Iterable[Drawn]:
    """Batches as they are done; a sample is a function of the seed and its number."""
    device = "cuda" if where.gpus_per_worker else "cpu"
    model = CheckpointModel(
        str(opened.run.absolute()), opened.step, opened.weights_hash, averaged=True
    )
    drawing = Drawing(model, order.request, order.seed, device)
    progress = _Told(order, Progress(sys.stderr))
    if where.name == "inline":
        if device == "cpu":
            cache_model(model, opened, device)
        found: Iterable[Drawn] = map(
            functools.partial(drawing, tell=progress.within), order.batches()
        )
    else:
        found = cluster.stream(where)(drawing, order.batches())
    for draws, made in found:
        progress.batch(len(draws))
        yield draws, made


class _Told:
    """How far it is and how long it takes, in a line that moves or lines now and then."""

    def __init__(self, order: SampleOrder, progress: Progress) -> None:
        self._order, self._progress = order, progress
        self._pace, self._done = Pace(order.count), 0

    def within(self, share: float) -> None:
        """Of the batch that is being drawn."""
        self._say(self._done + share * min(self._order.batch, self._order.count - self._done))

    def batch(self, clips: int) -> None:
        self._done += clips
        self._say(self._done)

    def _say(self, clips: float) -> None:
        self._pace.done, count = clips, self._order.count
        self._progress.say(f"{clips / count:.0%} of {count} samples, {self._pace.left()}")


# Writing


def _write(drawn: Iterable[Drawn], order: SampleOrder, folder: Path, clip: int) -> list[Path]:
    """Files as the samples come, and one sheet of the first of them."""
    paths: dict[int, list[Path]] = {}
    shown: dict[int, Tensor] = {}
    writer, most = order.writer, pictures.MOST_FRAMES
    for draws, made in drawn:
        for draw, one in zip(draws, made, strict=True):
            stem = folder / order.name(draw)
            paths[draw] = [writer.formats[name](one, stem, order.fps) for name in order.written]
            if writer.frames and draw < MOST_SHOWN:
                frames = writer.frames(one)
                most = MOST_SHOWN if len(frames) > clip else most
                shown[draw] = pictures.chosen_frames(frames, most)
    files = [path for draw in sorted(paths) for path in paths[draw]]
    if not shown:
        return files
    if order.whole or not order.sheet(folder).is_file():
        atomic_write(order.sheet(folder), _sheet(order, shown, most))
    return [order.sheet(folder), *files]


def _sheet(order: SampleOrder, shown: Mapping[int, Tensor], most: int) -> bytes:
    """Films in rows with what was asked for under each; single pictures in a grid."""
    numbers = sorted(shown)
    samples = torch.stack([shown[draw] for draw in numbers])
    if order.kind.medium != "film" and samples.shape[1] == 1:
        return pictures.grid(samples[:, 0])
    captions = [order.caption(draw) for draw in numbers]
    given = next(iter(order.pictures.values()), None)
    return pictures.contact_sheet(samples, captions, most, given)
