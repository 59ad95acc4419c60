"""Imports: `eval` stays the builtin, no circle, and a contract for every room."""

import ast
import tomllib
from collections.abc import Callable, Iterator

import grimp
import pytest

from tests.house.tree import PACKAGES, ROOT, modules

ALL = (*PACKAGES, "tests", "benchmarks")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]


def takes_eval(code: str) -> Iterator[int]:
    """Lines that bind the name `eval` to the package, also in strings of code."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (node.lineno for name in node.names if name.name.split(".")[0] == "eval")
        elif isinstance(node, ast.Constant) and "import " in str(node.value):
            yield from (node.lineno for _ in _in_string(str(node.value)))


def _in_string(text: str) -> Iterator[int]:
    try:
        yield from takes_eval(text)
    except SyntaxError:
        return


def test_nothing_says_import_eval() -> None:
    """`import eval.x` would take the builtin away; `from eval.x import y` does not."""
    found = {f"{p}:{line}" for p in modules(*ALL) for line in takes_eval(p.read_text())}
    assert not found


@pytest.mark.parametrize("what", ["eval", "os, eval.watch", "eval.watch as w"])
@pytest.mark.parametrize("wrap", [str, repr])
def test_the_control_finds_it(what: str, wrap: Callable[[str], str]) -> None:
    line = f"import {what}"
    assert list(takes_eval(wrap(line))) == [1]
    assert not list(takes_eval(wrap(line.replace("eval", "evaluation"))))


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Imports inside functions count too."""
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def test_no_circle_of_imports(graph: grimp.ImportGraph) -> None:
    circles = {
        (module, other)
        for module in graph.modules
        for other in graph.find_modules_directly_imported_by(module)
        if module != other and graph.chain_exists(importer=other, imported=module)
    }
    assert not circles


def test_every_room_has_a_contract(graph: grimp.ImportGraph) -> None:
    """The folders of `hvdm`, `launcher`, `eval` and `data_tools` and these, but for families."""
    kept = {room for c in CONTRACTS["contracts"] for room in c.get("containers", [])}
    rooms = {m for m in graph.modules if graph.find_children(m) and m.split(".")[0] != "configs"}
    assert {room for room in rooms if not room.startswith("hvdm.recipes")} == kept
