"""A verb of the command line: its function is imported only when it is asked for."""

import json
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from hvdm.options import Told, told
from launcher.arguments import options_of

WIDTH = 100


def imported(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(module), name)


@dataclass(frozen=True)
class Verb:
    name: str
    summary: str
    place: str
    """`module:function`; what it can be asked for is the type of the function's argument."""
    more: str | None = None
    """`module:function` that says what else there is, of what was typed."""

    @property
    def function(self) -> Callable[[Any], int]:
        found: Callable[[Any], int] = imported(self.place)
        return found

    @property
    def options(self) -> list[Told]:
        return list(told(options_of(self.function)))

    @property
    def examples(self) -> tuple[str, ...]:
        found: tuple[str, ...] = options_of(self.function).examples
        return found

    @property
    def rows(self) -> list[tuple[str, str]]:
        """How each key is typed, and what it does."""
        return [row for one in self.options for row in (*one.rows, one.line())]

    def help(self) -> str:
        width = max((len(typed) for typed, _ in self.rows), default=0)
        lines = [f"hvdm {self.name}: {self.summary}", "", "keys:"]
        lines += [_wrapped(typed.ljust(width), about) for typed, about in self.rows]
        lines += ["", "examples:", *(f"  hvdm {example}" for example in self.examples)]
        return "\n".join(lines)


def tell(as_json: bool, answer: Any, text: Any, fine: bool = True) -> int:
    """Prints what a verb found, as data or in words, and gives its exit code."""
    print(json.dumps(answer, indent=1, default=str) if as_json else text)
    return 0 if fine else 1


def _wrapped(typed: str, about: str) -> str:
    indent = " " * (len(typed) + 4)
    return textwrap.fill(f"  {typed}  {about}", WIDTH, subsequent_indent=indent,
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip
