"""What a verb or a kind of sample can be asked for: typed fields of a dataclass, with help."""

import dataclasses
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

SPELLED = (int, float, bool, str)
PLACES = {int: "N", float: "X", bool: "true|false"}
"""What stands for a value in help, unless the option says."""


FROM_METADATA = ("shown", "word", "gathers", "rows", "read")


class Told(NamedTuple):
    """An option as help tells of it; `default` is MISSING where a value has to be given."""

    name: str
    kind: Any
    default: Any
    about: str
    shown: str = ""
    word: bool = False
    gathers: tuple[str, ...] | None = None
    rows: Sequence[tuple[str, str]] = ()
    read: Callable[[str, Any], Any] | None = None

    @property
    def spelled(self) -> bool:
        """Whether a word gives its value, by its type or by how it says that it is read."""
        by_type = self.plain in SPELLED or get_origin(self.plain) in (Literal, tuple)
        return by_type or self.read is not None or self.gathers is not None

    @property
    def plain(self) -> Any:
        """The kind without the None that it may be."""
        if get_origin(self.kind) in (Union, types.UnionType):
            return next(arg for arg in get_args(self.kind) if arg is not type(None))
        return self.kind

    @property
    def choices(self) -> tuple[str, ...]:
        if get_origin(self.plain) is Literal:
            return tuple(map(str, get_args(self.plain)))
        return tuple(PLACES[bool].split("|")) if self.plain is bool else ()

    def line(self) -> tuple[str, str]:
        """How it is typed, and what it does."""
        place = self.shown or "|".join(self.choices) or PLACES.get(self.plain, "VALUE")
        if self.gathers is not None:
            return self.shown, self.about
        if self.name == "json":
            return "--json", self.about
        typed = f"{self.name}={place}"
        if self.word:
            typed = place if get_origin(self.kind) is tuple else f"{place}, or {typed}"
        return typed, self.about + self._usual()

    def _usual(self) -> str:
        if self.default in (dataclasses.MISSING, None, False, (), "") or "default" in self.about:
            return ""
        text = ",".join(map(str, self.default)) if isinstance(self.default, tuple) else self.default
        return f"; default {str(text).lower() if text is True else text}"


def option(
    default: Any = dataclasses.MISSING,
    about: str = "",
    *,
    shown: str = "",
    example: str = "",
    key: str = "",
    least: int | None = None,
    word: bool = False,
    read: Callable[[str, Any], Any] | None = None,
) -> Any:
    """A field with its help; without a default a value has to be given.

    `key` is what is typed where the name cannot be, `word` says that it may come without its key;
    `read(key, value)` gives the value where its type does not say how.
    """
    told = {"about": about, "shown": shown, "example": example, "least": least, "word": word}
    more = {"read": read} | ({"key": key} if key else {})
    return dataclasses.field(default=default, metadata=told | more)


def gathered(
    about: str,
    shown: str,
    under: tuple[str, ...] = (),
    rows: Sequence[tuple[str, str]] = (),
) -> Any:
    """Keys that are no options of their own, as they were typed: those under a name, or all.

    `rows` are some that help names.
    """
    told = {"about": about, "shown": shown, "gathers": under, "rows": rows}
    return dataclasses.field(default_factory=dict, metadata=told)


def told(cls: type) -> Iterator[Told]:
    """The options of a dataclass in their order, its own before inherited ones."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = get_type_hints(cls)
    names = [name for one in cls.__mro__ for name in vars(one).get("__annotations__", ())]
    for f in (fields[name] for name in dict.fromkeys(names) if name in fields):
        more = {k: f.metadata[k] for k in FROM_METADATA if k in f.metadata}
        about = str(f.metadata.get("about", ""))
        yield Told(key_of(f), hints[f.name], f.default, about, **more)


def key_of(field: "dataclasses.Field[Any]") -> str:
    """What is typed for it."""
    return str(field.metadata.get("key", field.name))
