"""The one place that turns names into objects."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml
from torch import nn

from hvdm import config as configs
from hvdm import rng
from hvdm.checkpoint import checkpoint
from hvdm.checkpoint.checkpoint import Checkpoint
from hvdm.config import RunConfig
from hvdm.data.loader import ClipSpec, Loader, ReadOptions
from hvdm.data.store import join
from hvdm.errors import UserError
from hvdm.recipe import Clip, Given, Recipe
from hvdm.train.ema import Ema
from hvdm.train.engine import Engine, LocalEngine

CONFIG_FILE = "config.yaml"
FREE_DATA_KEYS = {
    "path",
    "mix",
    "threads",
    "ahead",
    "log_keys",
    *(f.name for f in fields(ReadOptions)),
}
"""Where data lies and who decodes it may change between parts of a run."""


def recipe_module(name: str) -> ModuleType:
    """`family.stage` under hvdm.recipes, or the full name of a module of the user's own."""
    for candidate in (f"hvdm.recipes.{name}", name):
        try:
            return importlib.import_module(candidate)
        except ModuleNotFoundError as error:
            if not error.name or not candidate.startswith(error.name):
                raise
    raise UserError(
        f"recipe={name!r} is no module: expected FAMILY.STAGE under hvdm/recipes, "
        "or the name of a module that Python can import"
    )


def clip_of(config: RunConfig) -> Clip:
    return Clip(config.data.frames, config.data.height, config.data.width)


def build_recipe(config: RunConfig, first_stage: Recipe | None = None) -> Recipe:
    """Networks with the initial weights that the seed gives, on the current default device."""
    module = recipe_module(config.recipe)
    model = configs.parse(module.Config, config.model, "model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.seed_of(config.seed, "init"))
        recipe: Recipe = module.build(model, Given(clip_of(config), first_stage, config.from_data))
    check_recipe(config, recipe)
    return recipe


def with_data(config: RunConfig, loader: Loader) -> RunConfig:
    """With what the recipe has to know of its data set, such as how strongly its clips move.

    It goes into the run's config, so that sampling needs no data set, and a run that goes on with
    the same data does not look again.
    """
    module = recipe_module(config.recipe)
    find = getattr(module, "from_data", None)
    if find is None:
        return config
    same = {k: v for k, v in identity(config, loader).items() if k not in ("optimizer", "ema")}
    of, then = configs.digest(same), _config_before(Path(config.run))
    if then is not None and then.from_data_of == of:
        return replace(config, from_data=then.from_data, from_data_of=of)
    model = configs.parse(module.Config, config.model, "model")
    found: Mapping[str, Any] = find(model, clip_of(config), loader.rows)
    return replace(config, from_data=found, from_data_of=of)


def _config_before(run: Path) -> RunConfig | None:
    """Of the run in this folder, where there is one that can be read."""
    try:
        return read_config(run)
    except (UserError, TypeError, yaml.YAMLError):
        return None


def check_recipe(config: RunConfig, recipe: Recipe) -> None:
    if config.engine.zero == 3 and len(recipe.phases) > 1:
        raise UserError(
            f"engine.zero=3 does not work for {config.recipe}, whose {len(recipe.phases)} networks "
            "call one another (ZeRO-3 gathers weights in hooks, which a second backward undoes); "
            "use engine.zero=2"
        )


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
    return configs.load(yaml.safe_load(path.read_text()))


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


def build_engines(config: RunConfig, recipe: Recipe) -> dict[str, Engine]:
    if config.engine.name == "local":
        return {
            name: LocalEngine(module, config.engine, config.optimizer)
            for name, module in recipe.trained.items()
        }
    from hvdm.train.zero import DeepSpeedEngine

    return {
        name: DeepSpeedEngine(module, config.engine, config.optimizer, config.micro_batch)
        for name, module in recipe.trained.items()
    }


def build_averages(
    config: RunConfig, recipe: Recipe, engines: Mapping[str, Engine]
) -> dict[str, Ema]:
    return {name: Ema(engines[name], config.ema) for name in recipe.averaged}


def build_loader(config: RunConfig, split: str, before: int = 0) -> Loader:
    """Clips of the run's shape, with this many frames in front of each."""
    data = config.data
    spec = configs.take(ClipSpec, data)
    loader = Loader(
        _folders(config, split),
        replace(spec, frames=spec.frames + before),
        seed=config.seed,
        lanes=data.lanes,
        window=data.window,
        threads=data.threads,
        ahead=data.ahead,
        options=configs.take(ReadOptions, data),
        key_log=Path(config.run) / "logs" / "keys" if data.log_keys else None,
    )
    _check_latents(config, loader)
    return loader


def _folders(config: RunConfig, split: str) -> dict[str, float]:
    """The data set, and in training those that are mixed in, each with its weight."""
    mix = config.data.mix if split == config.data.train else {}
    weights = {config.data.path: 1.0, **{path: float(mix[path]) for path in mix}}
    return {join(path, split): weight for path, weight in weights.items()}


def _check_latents(config: RunConfig, loader: Loader) -> None:
    """Latents of other weights than the first stage's would train a model of something else."""
    for source in loader.sources:
        made_by = source.manifest.provenance.get("first_stage", {}).get("weights")
        if made_by is None:
            continue
        if made_by != (own := first_stage_hash(config)):
            loader.close()
            raise UserError(
                f"the latents under {config.data.path} were made by weights {made_by[:12]}, "
                f"first_stage={config.first_stage} has {(own or 'none')[:12]}; encode them anew "
                "with `hvdm data encode`, or name the first stage that made them"
            )


def identity(config: RunConfig, loader: Loader) -> dict[str, Any]:
    """What has to stay the same on resume; cluster, engine, logging and evaluation may change."""
    whole = configs.plain(config)
    data = {k: v for k, v in whole["data"].items() if k not in FREE_DATA_KEYS}
    return {
        **{key: whole[key] for key in ("recipe", "model", "optimizer", "seed", "batch", "ema")},
        "data": {**data, **loader.identity()},
        "first_stage_weights": first_stage_hash(config),
    }
