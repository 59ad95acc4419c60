"""`hvdm models`: what a config builds, counted on the meta device, where nothing is allocated."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hvdm import building, opening
from hvdm.config import RunConfig
from hvdm.data import fields
from hvdm.errors import UserError
from hvdm.recipe import Batch, Context, Recipe, group_of
from launcher import compose
from launcher.arguments import overrides
from launcher.run_options import ModelsOptions


def models(asked: ModelsOptions) -> int:
    names, keys = [asked.config] if asked.config else compose.names(), overrides(asked.keys)
    rows = [describe(name, keys) for name in names]
    if asked.json:
        print(json.dumps(rows, indent=1))
    for row in () if asked.json else rows:
        _tell(row)
    return 0


def describe(name: str, keys: list[str] | None = None) -> dict[str, Any]:
    """Parameters and multiply-adds per network of one config, and the shape of its latent."""
    config = compose.run_config(name, keys or [])
    recipe = on_meta(config)
    counted = multiply_adds(recipe, config)
    latent = _latent_shape(config, recipe)
    return {
        "config": name,
        "recipe": config.recipe,
        "clip": [config.data.frames, config.data.height, config.data.width],
        "latent_shape": latent,
        "networks": {
            net: {"parameters": parameters(module), "multiply_adds": counted[net]}
            for net, module in recipe.trained.items()
        },
        "frozen": {net: {"parameters": parameters(m)} for net, m in recipe.frozen.items()},
    }


def _latent_shape(config: RunConfig, recipe: Recipe) -> list[int] | None:
    """Of the recipe's own coder, or of the first one that it works on."""
    if recipe.coder is not None:
        return list(recipe.coder.latent_shape)
    shapes = (_latent_shape(below, on_meta(below)) for below in configs_below(config).values())
    return next((shape for shape in shapes if shape), None)


def on_meta(config: RunConfig) -> Recipe:
    """The recipe without its weights; the runs below need not be trained."""
    stages = {name: on_meta(below) for name, below in configs_below(config).items()}
    with torch.device("meta"):
        return building.build_recipe(config, stages)


def configs_below(config: RunConfig) -> dict[str, RunConfig]:
    """By stage that of the run, where there is one; else the config that would train it."""
    runs, named = opening.runs_below(config), opening.configs_below(config)
    below = {}
    for stage in runs | named:
        run, _ = opening.split_reference(runs.get(stage, ""))
        if (run / opening.CONFIG_FILE).is_file():
            below[stage] = opening.trusted_config(run)
        elif stage in named:
            below[stage] = compose.run_config(named[stage])
        else:
            raise _untold(config, stage, run)
    return below


def _untold(config: RunConfig, stage: str, run: Path) -> UserError:
    key, of = opening.key_of(config, stage), "first_stage_config"
    if key != "first_stage":
        of = f"stages_config.{stage}"
    return UserError(
        f"{key}={run} is not trained, and {of} does not say how it would be: set {of}=NAME"
    )


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# Multiply-adds


def multiply_adds(recipe: Recipe, config: RunConfig) -> dict[str, int]:
    """Of one forward pass per clip in the loss that trains the network."""
    counted: dict[str, int] = {}
    rows = group_of(recipe)
    for index, phase in enumerate(recipe.phases):
        if phase.net in counted:
            continue
        net = recipe.trained[phase.net]
        context = Context(config.seed, tuple(range(rows)), f"phase{index}", "meta")
        tally = _Tally()
        with torch.device("meta"):
            batch = blank(config, rows)
        with torch.no_grad(), tally.counter, _hooked(net, tally):
            phase.loss(batch, context)
        counted[phase.net] = sum(tally.first.values()) // (2 * rows)
    return counted


class _Tally:
    """Operations of the outermost calls into a network, each entry point's first call."""

    def __init__(self) -> None:
        self.counter = FlopCounterMode(display=False)
        self.first: dict[int, int] = {}
        self._depth = 0
        self._before = 0

    def enter(self, module: nn.Module, inputs: Any) -> None:
        if self._depth == 0:
            self._before = self.counter.get_total_flops()
        self._depth += 1

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            spent = self.counter.get_total_flops() - self._before
            self.first.setdefault(id(module), spent)


@contextmanager
def _hooked(net: nn.Module, tally: _Tally) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(tally.enter) for module in net.modules()]
    handles += [module.register_forward_hook(tally.leave) for module in net.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def blank(config: RunConfig, rows: int) -> Batch:
    """Rows as a run's loader would give them, all zero, on the current default device."""
    return fields.blank(building.fields_of(config), rows, config.data.short == "pad")


# For people


def _tell(row: Mapping[str, Any]) -> None:
    latent = "x".join(map(str, row["latent_shape"])) if row["latent_shape"] else "none"
    clip = "x".join(map(str, row["clip"]))
    print(f"{row['config']}: {row['recipe']}, clip {clip}, latent {latent}")
    for net, counts in row["networks"].items():
        spent = f"{counts['multiply_adds'] / 1e9:12,.3f} G multiply-adds per clip"
        print(f"  {net:<16}{counts['parameters']:>15,} parameters  {spent}")
    for net, counts in row["frozen"].items():
        print(f"  {net:<16}{counts['parameters']:>15,} parameters, frozen")
