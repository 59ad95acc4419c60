"""What a manifest says, looked through before it is used: all of it can be a stranger's."""

import re
from collections.abc import Callable, Mapping
from typing import Any

MOST = 1 << 62
WORLD = 1 << 20
ATTEMPT = re.compile(r"[0-9a-f]{1,32}")
_FILE = re.compile(r"[A-Za-z0-9_][\w-]*(\.[\w-]+){2,}", re.ASCII)
_NET = re.compile(r"[A-Za-z0-9_][\w-]*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
Check = Callable[[Any], bool]


def problem_of(manifest: Mapping[str, Any]) -> str | None:
    """The first thing in it that `writing` would not have written."""
    for name, check in _NEEDED.items():
        if name not in manifest or not check(manifest[name]):
            return f"its {name} cannot be used"
    odd = [name for name, check in _MORE.items() if not check(manifest.get(name))]
    return f"its {odd[0]} cannot be used" if odd else None


def _whole(value: Any, least: int = 0, most: int = MOST) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < most


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < MOST


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _of(key: re.Pattern[str], check: Check) -> Check:
    """A mapping whose keys are such words and whose values pass."""
    return lambda value: (
        isinstance(value, dict)
        and all(key.fullmatch(name) and check(inner) for name, inner in value.items())
    )


def _either(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _file(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and _whole(row.get("bytes"))
        and _text(row.get("sha256"))
        and bool(_SHA256.fullmatch(row["sha256"]))
    )


def _shape(value: Any) -> bool:
    return isinstance(value, list) and all(_whole(size) for size in value)


_ANY = re.compile(r".*", re.DOTALL)


def _net(row: Any) -> bool:
    shapes = _of(_ANY, _shape)
    return (
        isinstance(row, dict)
        and shapes(row.get("parameters"))
        and shapes(row.get("buffers"))
        and _either(_text)(row.get("optimizer"))
        and _whole(row.get("optimizer_steps"))
        and _either(_whole)(row.get("ema_updates"))
        and _either(_text)(row.get("rest"))
    )


def _substitution(row: Any) -> bool:
    """As the loader's: draw, source, shard, key, reason, instead."""
    return (
        isinstance(row, list)
        and len(row) == 6
        and all(map(_whole, row[:2]))
        and _either(_text)(row[3])
        and all(map(_text, (row[2], *row[4:])))
    )


def _identity(value: Any) -> bool:
    groups = [value.get(name, {}) for name in ("data", "model")] if isinstance(value, dict) else []
    return bool(groups) and all(isinstance(group, dict) for group in groups)


_WORDS = _either(_of(_ANY, _text))
_NEEDED: dict[str, Check] = {
    "step": _whole,
    "time": _number,
    "world": lambda value: _whole(value, 1, WORLD),
    "files": _of(_FILE, _file),
    "nets": _of(_NET, _net),
}
_MORE: dict[str, Check] = {
    "identity": _either(_identity),
    "cursor": _either(_of(_ANY, _whole)),
    "stages": _WORDS,
    "versions": _WORDS,
    "engine": _either(_text),
    "commit": _either(_text),
    "config": _either(_text),
    "substitutions": _either(
        lambda value: isinstance(value, list) and all(map(_substitution, value))
    ),
    "attempt": _either(lambda value: _text(value) and bool(ATTEMPT.fullmatch(value))),
}
