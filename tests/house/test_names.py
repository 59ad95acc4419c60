"""A name is found once: no class and no file stands for two things."""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.house.tree import modules

EXCEPTIONS: dict[str, str] = {}
"""Names that stand for two things, each with its reason."""


def owned() -> Iterator[Path]:
    """Families keep names of their own: each has its `autoencoder.py` and its `Config`."""
    for path in modules("hvdm", "launcher", "eval", "data_tools"):
        if "recipes" not in path.parts and path.name != "__init__.py":
            yield path


def classes() -> Iterator[tuple[str, Path]]:
    for path in owned():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                yield node.name, path


def twice(found: Iterable[tuple[str, Path]]) -> dict[str, list[str]]:
    places = defaultdict(list)
    for name, path in found:
        places[name].append(str(path))
    return {name: seen for name, seen in places.items() if len(seen) > 1}


@pytest.mark.parametrize("what", ["classes", "files"])
def test_no_name_stands_for_two_things(what: str) -> None:
    found = classes() if what == "classes" else ((path.name, path) for path in owned())
    assert twice(found).keys() == EXCEPTIONS.keys() & twice(found).keys(), twice(found)


def test_the_control_finds_a_name_that_comes_twice() -> None:
    here = Path(__file__)
    assert twice([("Job", here), ("Task", here), ("Job", here)]) == {"Job": [str(here)] * 2}
