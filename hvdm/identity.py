"""What makes a run the same run: its model, its data, and the weights that it stands on."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from hvdm import config as configs
from hvdm.building import clip_of, recipe_module
from hvdm.config import RunConfig
from hvdm.data.loader import Loader, ReadOptions
from hvdm.errors import UserError
from hvdm.opening import read_config, stage_hashes

FREE_DATA_KEYS = {
    "path",
    "mix",
    "beside",
    "threads",
    "ahead",
    "log_keys",
    *(f.name for f in fields(ReadOptions)),
}
"""Where data lies and who decodes it may change between parts of a run."""


def identity(config: RunConfig, loader: Loader) -> dict[str, Any]:
    """What has to stay the same on resume; cluster, engine, logging and evaluation may change."""
    whole = configs.plain(config)
    data = {k: v for k, v in whole["data"].items() if k not in FREE_DATA_KEYS}
    return {
        **{key: whole[key] for key in ("recipe", "model", "optimizer", "seed", "batch", "ema")},
        "data": {**data, **loader.identity()},
        "first_stage_weights": None,
        **{f"{name}_weights": weights for name, weights in stage_hashes(config).items()},
    }


def with_data(config: RunConfig, loader: Loader) -> RunConfig:
    """With what the recipe has to know of its data set, such as how strongly its clips move.

    It goes into the run's config, so that sampling needs no data set, and a run that goes on with
    the same data does not look again.
    """
    module = recipe_module(config.recipe)
    hooks = {name: vars(module).get(name) for name in ("from_data", "from_manifest")}
    if not any(hooks.values()):
        return config
    same = {k: v for k, v in identity(config, loader).items() if k not in ("optimizer", "ema")}
    of, then = configs.digest(same), _config_before(Path(config.run))
    if then is not None and then.from_data_of == of:
        return replace(config, from_data=then.from_data, from_data_of=of)
    model = configs.parse(module.Config, config.model, "model")
    found: dict[str, Any] = {}
    if find := hooks["from_data"]:
        found |= find(model, clip_of(config), loader.rows)
    if find := hooks["from_manifest"]:
        manifests = loader.manifests.values()
        measured = [one.provenance["measured"] for one in manifests if "measured" in one.provenance]
        found |= find(model, measured[0] if measured else {})
    return replace(config, from_data=found, from_data_of=of)


def _config_before(run: Path) -> RunConfig | None:
    """Of the run in this folder, where there is one that can be read."""
    try:
        return read_config(run)
    except (UserError, TypeError, yaml.YAMLError):
        return None


def check_latents(config: RunConfig, loader: Loader) -> None:
    """Latents of other weights than the first stage's would train a model of something else."""
    for place, manifest in loader.manifests.items():
        made_by = manifest.provenance.get("first_stage", {}).get("weights")
        if made_by is None:
            continue
        if made_by not in (own := stage_hashes(config)).values():
            raise UserError(
                f"the latents under {place} were made by weights {made_by[:12]}, "
                f"first_stage={config.first_stage} has "
                f"{', '.join(weights[:12] for weights in own.values()) or 'none'}; encode them "
                "anew with `hvdm data encode`, or name the first stage that made them"
            )
