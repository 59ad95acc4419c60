"""Demos are data: configs/demo/NAME.yaml, or a file of the user's own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template
from typing import Any, Literal

import yaml

from hvdm.config import parse
from hvdm.errors import UserError, closest
from launcher.paths import CONFIGS

FOLDER = CONFIGS / "demo"


@dataclass(frozen=True)
class DemoStage:
    """A verb with its arguments; `ready` says by what it is known to have been done before."""

    title: str
    verb: tuple[str, ...]
    ready: Literal["trained", "sampled", "evaluated", "none"] = "none"
    run: str = ""
    says: str = ""
    """Until there is something to tell."""

    def filled(self, names: Mapping[str, str | None]) -> "DemoStage":
        """With values for names; a word with the name of what was not given is left out."""
        if not self.verb or self.ready != "none" and not self.run:
            raise UserError(f"stage {self.title!r}: a verb is needed, and run: to be {self.ready}")
        run = f"{names['out']}/{self.run}" if self.run else ""
        have = {**names, "run": run} if run else names
        absent = [f"${{{name}}}" for name, value in have.items() if value is None]
        words = [word for word in self.verb if not any(name in word for name in absent)]
        return replace(self, run=run, verb=tuple(fill(word, have) for word in words))


@dataclass(frozen=True)
class DemoFile:
    """`made` and `next` are shown at the end, lines as they are; `figures` have arguments."""

    title: str
    about: str
    out: str
    stages: tuple[DemoStage, ...]
    made: str
    next: str
    figures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def fill(text: str, names: Mapping[str, str | None]) -> str:
    """`${NAME}` becomes its value."""
    try:
        return Template(text).substitute(names)
    except (KeyError, ValueError) as error:
        known = ", ".join(f"${{{name}}}" for name in names)
        raise UserError(f"{text!r}: {error} is no name; there are {known}, and $$ is $") from None


def path_of(name: str) -> Path:
    """Of a demo that comes with the package, or the user's own file."""
    if not name.endswith((".yaml", ".yml")):
        if name not in names():
            raise UserError(f"demo {name!r} does not exist; {closest(name, names())}")
        return FOLDER / f"{name}.yaml"
    path = Path(name).expanduser().absolute()
    if not path.is_file():
        raise UserError(f"{name}: there is no such file")
    return path


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """What is wrong inside is said of this file, in one line."""
    try:
        yield
    except (UserError, yaml.YAMLError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None


def read(path: Path) -> DemoFile:
    with blaming(path):
        content = yaml.safe_load(path.read_text())
        return parse(DemoFile, content if isinstance(content, Mapping) else {})


def listed(typed: Mapping[str, str]) -> str:
    """For help: the demos that come with the package."""
    found = [(name, read(path_of(name))) for name in names()]
    return "\n".join(["demos:", *(f"  {name}  {it.title}: {it.about}" for name, it in found)])
