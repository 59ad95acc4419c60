"""Hydra composes the YAML and the overrides; from here on everything is typed."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hvdm import config as configs
from hvdm.config import RunConfig
from hvdm.errors import UserError, closest
from launcher import paths

GROUPS = ("engine", "cluster", "optimizer")


def names() -> list[str]:
    """Every run config that comes with the package."""
    return sorted(paths.run_configs())


def run_config(name: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The typed config of a run: a name under configs/, or the path of a YAML file."""
    folder, config_name = _find(name)
    mapping = _compose(folder, config_name, [quoted(o) for o in overrides])
    if mapping.get("run") is None:
        mapping["run"] = f"runs/{Path(name).with_suffix('').name if folder else name}"
    mapping = paths.made_whole(mapping)
    if isinstance(cluster := mapping.get("cluster"), dict):
        mapping["cluster"] = _with_range(cluster)
    return configs.load(mapping)


def _with_range(cluster: dict[str, Any]) -> dict[str, Any]:
    """`workers: 2..8`, as people write it, are two keys."""
    found = re.fullmatch(r"(\d+)\.\.(\d+)", str(cluster.get("workers", "")))
    if not found:
        return cluster
    return {**cluster, "workers": int(found[2]), "fewest_workers": int(found[1])}


def _find(name: str) -> tuple[Path | None, str]:
    """The folder of a config of the user's own, and its name; no folder for one of ours."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"config={name}: there is no such file")
        return path.absolute().parent, path.stem
    if name not in names():
        raise UserError(f"config={name!r} does not exist; {closest(name, names())}")
    return None, paths.run_configs()[name]


def _compose(folder: Path | None, name: str, overrides: list[str]) -> dict[str, Any]:
    extra = [f"hydra.searchpath=[file://{paths.CONFIGS}]"] if folder else []
    try:
        with _hydra(folder or paths.CONFIGS):
            composed = compose(config_name=name, overrides=overrides + extra)
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            raise UserError(f"{missing[0]} has no value; give it as {missing[0]}=VALUE")
        mapping = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException, OSError, yaml.YAMLError) as error:
        raise _explained(error, name, overrides) from None
    assert isinstance(mapping, dict)
    return {str(key): value for key, value in mapping.items()}


@contextmanager
def _hydra(folder: Path) -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(folder), version_base="1.3"):
        yield


def quoted(override: str) -> str:
    """The override as Hydra takes it: a value that trips its grammar is quoted for the user.

    Keys go in as `++key`, so that a wrong one reaches the typed config, which knows what is near.
    """
    key, sign, value = override.partition("=")
    if not sign or not re.fullmatch(r"[\w/.]+", key):
        raise UserError(f"{override!r} is no override; expected key=value")
    if key in GROUPS:
        return override
    try:
        OverridesParser.create().parse_override(f"++{override}")
        return f"++{override}"
    except HydraException:
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"++{key}='{escaped}'"


def _explained(error: Exception, name: str, overrides: Sequence[str]) -> UserError:
    """One line in our own words for what Hydra refused."""
    for override in overrides:
        key, _, value = override.partition("=")
        if key in GROUPS:
            choices = [p.stem for p in (paths.CONFIGS / key).glob("*.yaml")]
            if value not in choices:
                return UserError(f"{override}: no such {key}; {closest(value, choices)}")
    return UserError(f"config={name}: {' '.join(str(error).split())}")


def group(name: str, choice: str, overrides: Sequence[str]) -> dict[str, Any]:
    """One group alone, for verbs that train nothing."""
    choices = [p.stem for p in (paths.CONFIGS / name).glob("*.yaml")]
    if choice not in choices:
        raise UserError(f"{name}={choice}: no such {name}; {closest(choice, choices)}")
    mapping = _compose(None, f"{name}/{choice}", [quoted(o) for o in overrides])
    return _with_range(dict(mapping[name])) if name == "cluster" else dict(mapping[name])
