"""Keys that are paths, made whole where they are typed: workers begin in folders of their own."""

from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from hvdm.config import flat
from hvdm.data.store import is_remote

KEYS = ("run", "first_stage", "init", "data.path", "data.cache", "checkpoint.path")
MIX, BESIDE, STAGES, WEIGHTS = "data.mix", "data.beside", "stages", "_weights"
"""Data sets by weight, a list of them, runs by name, and how keys of the model that are files end.
"""

CONFIGS = Path(str(resources.files("configs")))
"""Run configs are in runs/FAMILY: a folder named as a key is a group to Hydra, so not run/."""


def run_configs() -> dict[str, str]:
    """Every run config that comes with the package: what is typed, and its place in configs/.

    Typed are the last two parts of its place: `tiny/hvdm_autoencoder`, `hvdm_sky_256/diffusion`.
    """
    places = (p.relative_to(CONFIGS).with_suffix("") for p in (CONFIGS / "runs").rglob("*.yaml"))
    return {"/".join(place.parts[-2:]): place.as_posix() for place in places}


def whole(path: str | None) -> str | None:
    """From the root; an address stays what it is."""
    if path is None or is_remote(path):
        return path
    return str(Path(path).expanduser().absolute())


def made_whole(config: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """A config as YAML gives it, with every path whole."""
    return {key: _made_whole(f"{within}{key}", value) for key, value in config.items()}


def _made_whole(key: str, value: Any) -> Any:
    if key == MIX:
        return {whole(path): weight for path, weight in (value or {}).items()}
    if key in KEYS or key.startswith(f"{STAGES}."):
        return whole(value)
    if _is_list(key):
        return whole(value) if isinstance(value, str) else [whole(path) for path in value or ()]
    return made_whole(value, f"{key}.") if isinstance(value, Mapping) else value


def _is_list(key: str) -> bool:
    """One path, or several."""
    return key == BESIDE or key.startswith("model.") and key.endswith(WEIGHTS)


def typed(config: Mapping[str, Any]) -> Iterator[str]:
    """Overrides that say the paths of a whole config again, for another machine."""
    mix = config["data"]["mix"]
    if mix and not any(map(is_remote, mix)):  # Hydra has no spelling for an address as a key
        yield f"{MIX}={{{','.join(f'{path}:{weight}' for path, weight in mix.items())}}}"
    for key, value in flat(config):
        if not value or key.startswith(f"{MIX}."):
            continue
        if key in KEYS or key.startswith(f"{STAGES}."):
            yield f"{key}={value}"
        if _is_list(key):
            yield f"{key}={value if isinstance(value, str) else '[' + ','.join(value) + ']'}"
