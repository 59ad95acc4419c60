"""What a verb or a kind of sample can be asked for: typed fields of a dataclass, with help."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple


class Told(NamedTuple):
    """An option as help tells of it; `default` is MISSING where a value has to be given."""

    name: str
    kind: Any
    default: Any
    about: str


def option(default: Any = dataclasses.MISSING, about: str = "") -> Any:
    """A field with its help; without a default a value has to be given."""
    return dataclasses.field(default=default, metadata={"about": about})


def told(cls: type) -> Iterator[Told]:
    """The options of a dataclass in their order."""
    for f in dataclasses.fields(cls):
        yield Told(f.name, f.type, f.default, str(f.metadata.get("about", "")))
