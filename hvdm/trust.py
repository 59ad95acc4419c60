"""Which modules a run folder may name. It is data, and to import a module is to run it.

Free are the families of hvdm itself, and those that this user has trained: the command named them.
"""

import json
import os
from contextlib import suppress
from importlib import util
from pathlib import Path

from hvdm.disk import atomic_write
from hvdm.errors import UserError

TOLD = "HVDM_TRUST"
FAMILIES = "hvdm.recipes."


def cache_folder() -> Path:
    """$HVDM_CACHE, or hvdm/ in the user's cache."""
    chosen = os.environ.get("HVDM_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hvdm"


def check(run: Path, recipe: str) -> None:
    if os.environ.get(TOLD) == "1" or _is_ours(recipe) or _is_known(recipe):
        return
    raise UserError(
        f"{run} names the module {recipe!r}, which is no family of hvdm, and to import it is to "
        "run it: add trust=true if you know where this run comes from, or set HVDM_TRUST=1"
    )


def remember(recipe: str) -> None:
    """A module that the user's own command named, and where it lies."""
    if _is_ours(recipe) or _is_known(recipe):
        return
    with suppress(OSError):  # the next verb asks, that is all
        known = {**_known(), recipe: _place(recipe)}
        _file().parent.mkdir(parents=True, exist_ok=True)
        atomic_write(_file(), json.dumps(known, indent=1) + "\n")


def _is_ours(recipe: str) -> bool:
    name = recipe if recipe.startswith(FAMILIES) else FAMILIES + recipe
    try:
        return util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _is_known(recipe: str) -> bool:
    place = _known().get(recipe)
    return place is not None and place == _place(recipe)


def _place(recipe: str) -> str | None:
    """Of the outermost package, which is found without running anything."""
    try:
        spec = util.find_spec(recipe.partition(".")[0])
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    return spec.origin or ";".join(spec.submodule_search_locations or ())


def _known() -> dict[str, str]:
    try:
        found = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _file() -> Path:
    return cache_folder() / "trusted.json"
