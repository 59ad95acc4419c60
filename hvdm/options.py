"""What a verb or a kind of sample can be asked for: typed fields of a dataclass, with help."""

import dataclasses
import types
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

PLACES = {int: "N", float: "X", bool: "true|false"}
"""What stands for a value in help, unless the option says."""


class Told(NamedTuple):
    """An option as help tells of it; `default` is MISSING where a value has to be given."""

    name: str
    kind: Any
    default: Any
    about: str
    shown: str = ""

    @property
    def plain(self) -> Any:
        """The kind without the None that it may be."""
        if get_origin(self.kind) in (Union, types.UnionType):
            return next(arg for arg in get_args(self.kind) if arg is not type(None))
        return self.kind

    def line(self) -> tuple[str, str]:
        """How it is typed, and what it does."""
        choices = get_args(self.plain) if get_origin(self.plain) is Literal else ()
        place = self.shown or "|".join(map(str, choices)) or PLACES.get(self.plain, "VALUE")
        usual = "" if self.default in (None, (), dataclasses.MISSING) else (
            f"; default {self.default}")  # fmt: skip
        return f"{self.name}={place}", self.about + usual


def option(
    default: Any = dataclasses.MISSING,
    about: str = "",
    *,
    shown: str = "",
    key: str = "",
    read: Callable[[str, Any], Any] | None = None,
) -> Any:
    """A field with its help; without a default a value has to be given.

    `key` is what is typed where the name cannot be; `read(key, value)` gives the value where
    its type does not say how.
    """
    told = {"about": about, "shown": shown, "read": read}
    return dataclasses.field(default=default, metadata=told | ({"key": key} if key else {}))


def told(cls: type) -> Iterator[Told]:
    """The options of a dataclass in their order."""
    hints = get_type_hints(cls)
    for f in dataclasses.fields(cls):
        about, shown = (str(f.metadata.get(name, "")) for name in ("about", "shown"))
        yield Told(key_of(f), hints[f.name], f.default, about, shown)


def key_of(field: "dataclasses.Field[Any]") -> str:
    """What is typed for it."""
    return str(field.metadata.get("key", field.name))
