"""What a sample's json says, as numbers that can be used: a stranger may write anything there."""

import math
from collections.abc import Mapping
from typing import Any

from hvdm.data.decode import CannotDecode

MOST = 1 << 31


def whole(about: Mapping[str, Any], name: str, absent: int, least: int) -> int:
    try:
        number = int(about.get(name, absent))
    except (TypeError, ValueError, OverflowError):
        raise CannotDecode(_odd(about, name)) from None
    if not least <= number < MOST:
        raise CannotDecode(_odd(about, name))
    return number


def real(about: Mapping[str, Any], name: str, absent: float) -> float:
    try:
        number = float(about.get(name, absent))
    except (TypeError, ValueError, OverflowError):
        raise CannotDecode(_odd(about, name)) from None
    if not math.isfinite(number) or abs(number) >= MOST:
        raise CannotDecode(_odd(about, name))
    return number


def _odd(about: Mapping[str, Any], name: str) -> str:
    return f"its json says {name} {str(about[name])[:40]!r}, which cannot be"
