"""The one sampler: what a run is asked for, and its samples as functions of their draws."""

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

import torch

from hvdm import config as configs
from hvdm.errors import UserError, closest
from hvdm.opening import Opened, open_run
from hvdm.options import told
from hvdm.recipe import AnotherRun, Noise, Recipe, SampleKind, SampleRequest


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
    known = [option.name for option in told(kind.options)]
    for key in options or {}:
        if key not in known:
            raise UserError(f"unknown key {key!r} for what={name}; {closest(key, known)}")
    return SampleRequest(name, steps, configs.parse(kind.options, options or {}))


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
