"""The one sampler: what a run is asked for, and its samples as functions of their draws."""

from collections.abc import Mapping
from typing import Any

import torch

from hvdm import config as configs
from hvdm.errors import UserError, closest
from hvdm.opening import Opened
from hvdm.options import told
from hvdm.recipe import Noise, Recipe, SampleKind, SampleRequest


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
    with torch.no_grad():
        noise = Noise(seed, draws, device=device)
        return opened.recipe.sample(opened.nets, request, noise)
