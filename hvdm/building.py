"""Names become objects: a config's recipe, engines, averages and loader."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from hvdm import config as configs
from hvdm import rng
from hvdm.config import RunConfig
from hvdm.data.fields import Field
from hvdm.data.loader import ClipSpec, Loader, ReadOptions
from hvdm.data.order import check_groups
from hvdm.data.store import join
from hvdm.errors import UserError, closest
from hvdm.nets import blocks
from hvdm.recipe import (
    OF_MODULE,
    Clip,
    Given,
    Recipe,
    check_declared,
    check_has,
    group_of,
    part_of,
)
from hvdm.train.ema import Ema
from hvdm.train.engine import Engine, LocalEngine


def recipe_module(name: str) -> ModuleType:
    """`family.stage` under hvdm.recipes, or the full name of a module of the user's own."""
    for candidate in (f"hvdm.recipes.{name}", name):
        if module := imported(candidate):
            check_has(module, f"recipe={name}", OF_MODULE)
            return module
    raise UserError(
        f"recipe={name!r} is no module: expected FAMILY.STAGE under hvdm/recipes, "
        "or the name of a module that Python can import"
    )


def imported(name: str) -> ModuleType | None:
    """The module of this name, where there is one; what fails inside of it fails."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not error.name or not name.startswith(error.name):
            raise
        return None


def clip_of(config: RunConfig) -> Clip:
    return Clip(config.data.frames, config.data.height, config.data.width)


def fields_of(config: RunConfig) -> tuple[Field, ...]:
    """What the recipe says that it reads."""
    module = recipe_module(config.recipe)
    model = configs.parse(module.Config, config.model, "model")
    reads: tuple[Field, ...] = module.reads(model, config.data)
    return reads


def fields_to_measure(config: RunConfig) -> tuple[Field, ...]:
    """Those, and what the recipe's module says that it is measured by and never trained on."""
    module = recipe_module(config.recipe)
    more = vars(module).get("measured_by")
    return (*fields_of(config), *(more(config.data) if more else ()))


def stages_of_module(config: RunConfig) -> tuple[str, ...]:
    """Names of the runs below that the recipe works on; most work on none."""
    return tuple(vars(recipe_module(config.recipe)).get("stages", ()))


def build_recipe(config: RunConfig, stages: Mapping[str, Recipe] | None = None) -> Recipe:
    """Networks with the initial weights that the seed gives, on the current default device."""
    module, below = recipe_module(config.recipe), stages or {}
    _check_stages(config, below)
    model = configs.parse(module.Config, config.model, "model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.seed_of(config.seed, "init"))
        shapes = {f.name: f.shape for f in fields_of(config) if f.shape is not None}
        given = Given(clip_of(config), below, config.from_data, shapes)
        recipe: Recipe = module.build(model, given)
    check_declared(recipe, config.recipe)
    check_recipe(config, recipe)
    return recipe


def lay_out(config: RunConfig, nets: nn.Module) -> None:
    """As the engine's config says their activations lie in memory."""
    if config.engine.channels_last:
        blocks.channels_last(nets)


def _check_stages(config: RunConfig, below: Mapping[str, Recipe]) -> None:
    wanted = stages_of_module(config)
    for name in wanted:
        if name not in below:
            key = "first_stage" if len(wanted) == 1 else f"stages.{name}"
            raise UserError(
                f"{key} is not set: {config.recipe} works on a run below; name it with {key}=RUN"
            )


def check_recipe(config: RunConfig, recipe: Recipe) -> None:
    check_groups(config.batch, config.micro_batch, group_of(recipe))
    for net in config.optimizer.of:
        if net not in recipe.trained:
            raise UserError(
                f"optimizer.of.{net}: {config.recipe} trains no such network; "
                f"{closest(net, recipe.trained)}"
            )
    if config.engine.zero == 3 and len(recipe.phases) > 1:
        raise UserError(
            f"engine.zero=3 does not work for {config.recipe}, whose {len(recipe.phases)} networks "
            "call one another (ZeRO-3 gathers weights in hooks, which a second backward undoes); "
            "use engine.zero=2"
        )


def build_engines(config: RunConfig, recipe: Recipe) -> dict[str, Engine]:
    return {net: _engine(config, recipe, net) for net in recipe.trained}


def _engine(config: RunConfig, recipe: Recipe, net: str) -> Engine:
    module, optimizer = recipe.trained[net], config.optimizer.of_net(net)
    part = part_of(recipe, net)
    if config.engine.name == "local":
        return LocalEngine(module, config.engine, optimizer, part)
    from hvdm.train.zero import DeepSpeedEngine

    return DeepSpeedEngine(module, config.engine, optimizer, config.micro_batch, part)


def build_averages(
    config: RunConfig, recipe: Recipe, engines: Mapping[str, Engine]
) -> dict[str, Ema]:
    return {name: Ema(engines[name], config.ema) for name in recipe.averaged}


def build_loader(config: RunConfig, split: str, fields: Sequence[Field] = ()) -> Loader:
    """With the fields that the recipe reads, or with these."""
    data = config.data
    return Loader(
        _folders(config, split),
        configs.take(ClipSpec, data),
        seed=config.seed,
        lanes=data.lanes,
        window=data.window,
        threads=data.threads,
        ahead=data.ahead,
        options=configs.take(ReadOptions, data),
        key_log=Path(config.run) / "logs" / "keys" if data.log_keys else None,
        fields=fields or fields_of(config),
        beside=[join(path, split) for path in data.beside],
    )


def _folders(config: RunConfig, split: str) -> dict[str, float]:
    """The data set, and in training those that are mixed in, each with its weight."""
    mix = config.data.mix if split == config.data.train else {}
    weights = {config.data.path: 1.0, **{path: float(mix[path]) for path in mix}}
    return {join(path, split): weight for path, weight in weights.items()}
