"""A run that is there already: its config, and its networks with a checkpoint's weights."""

from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import nn

from hvdm import config as configs
from hvdm.building import build_recipe, lay_out
from hvdm.checkpoint import checkpoint
from hvdm.checkpoint.checkpoint import Checkpoint
from hvdm.config import RunConfig
from hvdm.errors import UserError
from hvdm.recipe import Recipe

CONFIG_FILE = "config.yaml"


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
    return configs.load(configs.renewed(yaml.safe_load(path.read_text())))


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
    config = read_config(run)
    found = checkpoint.choose(run, step, checkpoint.for_inference(averaged))
    recipe = build_recipe(config, first_stage_of(config, device))
    for name, module in recipe.trained.items():
        module.load_state_dict(checkpoint.weights(found, name, averaged))
    for module in (recipe.trained, recipe.frozen):
        module.to(device).eval().requires_grad_(False)
        lay_out(config, module)
    return Opened(run, config, recipe, recipe.trained, found)


def first_stage_of(config: RunConfig, device: torch.device | str = "cpu") -> Recipe | None:
    """The frozen recipe that a later stage works on."""
    if config.first_stage is None:
        return None
    run, _ = split_reference(config.first_stage)
    if not (run / CONFIG_FILE).is_file():
        hint = config.first_stage_config or "its config"
        raise UserError(
            f"first_stage={config.first_stage} is not trained yet: run "
            f"`hvdm train config={hint}` first, or name another run with first_stage=RUN"
        )
    return open_run(config.first_stage, device=device).recipe


def first_stage_hash(config: RunConfig) -> str | None:
    if config.first_stage is None:
        return None
    run, step = split_reference(config.first_stage)
    found = checkpoint.choose(run, step)
    return configs.digest(checkpoint.hashes(found))
