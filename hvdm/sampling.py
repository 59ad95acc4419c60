"""The one sampler: what a run is asked for, and its samples as functions of their draws."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hvdm import config as configs
from hvdm.config import DataConfig
from hvdm.errors import UserError, closest
from hvdm.media import photo
from hvdm.opening import Opened, open_run
from hvdm.options import key_of, told
from hvdm.recipe import AnotherRun, Noise, Picture, Recipe, SampleKind, SampleRequest


def kind_of(recipe: Recipe, what: str | None) -> tuple[str, SampleKind]:
    """A kind by its name; the recipe's first one unless told."""
    kinds = recipe.samples
    if not kinds:
        raise UserError(
            "this model samples nothing: reconstruct with it (protocol=reconstruction), or train a "
            "model on top (first_stage=RUN) and sample that"
        )
    name = what or next(iter(kinds))
    if name not in kinds:
        raise UserError(f"what={name}: this model cannot sample that; {closest(name, kinds)}")
    return name, kinds[name]


def ask(
    recipe: Recipe,
    what: str | None = None,
    steps: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> SampleRequest:
    """A request as this recipe takes it; options are values, or words as they are typed."""
    name, kind = kind_of(recipe, what)
    check_keys(recipe, name, options or {})
    if steps is not None and not kind.steps:
        raise UserError(
            f"steps={steps}: what={name} of this model is drawn in a number of steps of its own; "
            "leave it out"
        )
    return SampleRequest(name, steps, configs.parse(kind.options, options or {}))


def check_keys(recipe: Recipe, name: str, keys: Iterable[str], more: Iterable[str] = ()) -> None:
    """Refuses what this kind does not take, and says which kind does; `more` is known besides."""
    takes = {one: [o.name for o in told(kind.options)] for one, kind in recipe.samples.items()}
    for key in keys:
        if key not in takes[name]:
            others = [f"what={one}" for one, names in takes.items() if key in names]
            near = closest(key, [*more, *takes[name]])
            cure = f"it goes with {' or '.join(others)}" if others else near
            raise UserError(f"unknown key {key!r} for what={name}; {cure}")


def pictures_of(
    kind: SampleKind, options: Mapping[str, Any], data: DataConfig, fit: str = "crop"
) -> dict[str, Tensor]:
    """Of the options those that name a picture's file: its pixels, of the clips' size."""
    names = [option.name for option in told(kind.options) if option.plain is Picture]
    files = {n: Path(options[n]).expanduser() for n in names if _is_file(options.get(n))}
    shown = {n: photo.read(file, data.height, data.width, fit) for n, file in files.items()}
    return {name: torch.from_numpy(np.array(pixels)) for name, pixels in shown.items()}


def _is_file(value: Any) -> bool:
    return isinstance(value, str | Path)


def taken(recipe: Recipe, request: SampleRequest) -> dict[str, Any]:
    """All that a sample is drawn with, told or not: the kind's options, and what the recipe's own
    `taken(request)` says of its sampler, where it says something.
    """
    options = request.options or recipe.samples[request.what].options()
    own: Mapping[str, Any] = getattr(recipe, "taken", lambda request: {})(request)
    told_of = {key_of(f): getattr(options, f.name) for f in fields(options)}
    values = {"steps": request.steps, **told_of, **own}
    return {key: value for key, value in values.items() if not isinstance(value, Tensor)}


def draw(opened: Opened, request: SampleRequest, seed: int, draws: tuple[int, ...]) -> Any:
    """What the recipe makes, sample i a function of the seed and of draw i."""
    device = next(opened.nets.parameters()).device
    request = replace(request, options=_with_runs(request.options))
    with torch.no_grad():
        noise = Noise(seed, draws, device=device)
        return opened.recipe.sample(opened.nets, request, noise)


def _with_runs(options: Any) -> Any:
    """Runs that options name, opened: each once in a process."""
    named = {f.name: getattr(options, f.name) for f in fields(options)} if options else {}
    runs = {key: one for key, one in named.items() if isinstance(one, AnotherRun)}
    opened = {key: replace(one, recipe=_recipe_of(one.reference)) for key, one in runs.items()}
    return replace(options, **opened) if opened else options


@lru_cache(maxsize=2)
def _recipe_of(reference: str) -> Recipe:
    return open_run(reference).recipe
