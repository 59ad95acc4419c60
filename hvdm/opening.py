"""A run that is there already: its config, and its networks with a checkpoint's weights."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from hvdm import config as configs
from hvdm import trust
from hvdm.building import build_recipe, lay_out, stages_of_module
from hvdm.checkpoint import checkpoint, leases
from hvdm.checkpoint.checkpoint import Checkpoint
from hvdm.config import RunConfig
from hvdm.errors import UserError, closest
from hvdm.recipe import Recipe, part_of
from hvdm.train import part

CONFIG_FILE = "config.yaml"
FALLBACKS = 3
"""Of the newest checkpoints, as many may turn out to be the one that is read."""


@dataclass(frozen=True)
class Opened:
    """A run's networks with the weights of one checkpoint, ready to use."""

    run: Path
    config: RunConfig
    recipe: Recipe
    nets: nn.ModuleDict
    checkpoint: Checkpoint

    @property
    def step(self) -> int:
        return self.checkpoint.step

    @property
    def weights_hash(self) -> str:
        """Changes with the checkpoint that the networks were read from."""
        files = {name: row["sha256"] for name, row in self.checkpoint.manifest["files"].items()}
        return configs.digest(files)


def read_config(run: Path) -> RunConfig:
    path = run / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{run} is no run folder: {path} is missing; train one with `hvdm train`")
    return configs.load(configs.renewed(_content(path)))


def _content(path: Path) -> dict[str, Any]:
    """It can be a stranger's, or cut by a full disk."""
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path} is no YAML ({line}); bring it back from a copy") from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise UserError(f"{path} is no config of a run: expected keys with values")
    return found


def trusted_config(run: Path) -> RunConfig:
    """Of a run whose recipe is about to be imported."""
    config = read_config(run)
    trust.check(run, config.recipe)
    return config


@contextmanager
def kept(reference: str | None) -> Iterator[None]:
    """Leases on the newest checkpoints of RUN, or on RUN@STEP, and of the runs below it."""
    with ExitStack() as stack:
        for run, step in _with_below(reference, ()) if reference else ():
            listed = [found.step for found in checkpoint.listed(run)]
            for kept_step in listed[-FALLBACKS:] if step is None else [step]:
                stack.enter_context(leases.held(run, kept_step))
        yield


def _with_below(reference: str, above: tuple[Path, ...]) -> Iterator[tuple[Path, int | None]]:
    run, step = split_reference(reference)
    if run in above:
        raise UserError(f"{above[0]}: the runs that it works on lead back to {run}")
    yield run, step
    config = read_config(run)
    for below in (config.first_stage, *config.stages.values()):
        if below is not None:
            yield from _with_below(below, (*above, run))


def split_reference(reference: str) -> tuple[Path, int | None]:
    """RUN or RUN@STEP."""
    run, at, step = reference.rpartition("@")
    if not at:
        return Path(reference), None
    if not step.isdigit():
        raise UserError(f"{reference!r}: after @ a step is expected, such as {run}@4000")
    return Path(run), int(step)


def open_run(
    reference: str | Path, averaged: bool = True, device: torch.device | str = "cpu"
) -> Opened:
    """Networks of RUN[@STEP], averaged weights where the run keeps them."""
    run, step = split_reference(str(reference))
    config = trusted_config(run)
    found = checkpoint.choose(run, step, checkpoint.for_inference(averaged))
    recipe = build_recipe(config, stages_of(config, device))
    for name, module in recipe.trained.items():
        kept = part_of(recipe, name)
        checkpoint.check_rest(found, name, part.hash_of_rest(module, kept))
        part.fill(module, kept, checkpoint.weights(found, name, averaged))
    for module in (recipe.trained, recipe.frozen):
        module.to(device).eval().requires_grad_(False)
        lay_out(config, module)
    return Opened(run, config, recipe, recipe.trained, found)


def runs_below(config: RunConfig) -> dict[str, str]:
    """RUN[@STEP] of each stage that is set; `first_stage=RUN` is short for the only one."""
    return _by_stage(config, "stages", config.stages, "first_stage", config.first_stage)


def configs_below(config: RunConfig) -> dict[str, str]:
    """By stage, the name of the config that would train it."""
    alone = config.first_stage_config
    return _by_stage(config, "stages_config", config.stages_config, "first_stage_config", alone)


def _by_stage(
    config: RunConfig, key: str, named: Mapping[str, str], short: str, alone: str | None
) -> dict[str, str]:
    known = stages_of_module(config)
    for name in named:
        if name not in known:
            there = closest(name, known) if known else "it works on no run"
            raise UserError(f"{key}.{name}: {config.recipe} has no such stage; {there}")
    if alone is None:
        return dict(named)
    if len(known) != 1:
        raise UserError(
            f"{short}={alone} is for a recipe of one stage, and {config.recipe} has "
            f"{', '.join(known) or 'none'}: leave it out, or use {key}.NAME"
        )
    return {known[0]: alone, **named}


def stages_of(config: RunConfig, device: torch.device | str = "cpu") -> dict[str, Recipe]:
    """The frozen recipes of the runs below."""
    below = runs_below(config)
    for name, reference in below.items():
        _check_trained(config, name, reference)
    return {name: open_run(reference, device=device).recipe for name, reference in below.items()}


def _check_trained(config: RunConfig, name: str, reference: str) -> None:
    run, _ = split_reference(reference)
    if not (run / CONFIG_FILE).is_file():
        key = key_of(config, name)
        hint = configs_below(config).get(name, "its config")
        raise UserError(
            f"{key}={reference} is not trained yet: run "
            f"`hvdm train config={hint}` first, or name another run with {key}=RUN"
        )


def key_of(config: RunConfig, stage: str) -> str:
    """As its run was named."""
    return f"stages.{stage}" if stage in config.stages else "first_stage"


def stage_hashes(config: RunConfig) -> dict[str, str]:
    """Of each run below, its weights."""
    return {name: hash_of_run(reference) for name, reference in runs_below(config).items()}


def hash_of_run(reference: str) -> str:
    """Of its weights."""
    run, step = split_reference(reference)
    return configs.digest(checkpoint.hashes(checkpoint.choose(run, step)))
