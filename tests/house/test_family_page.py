"""What docs/adding_a_family.md shows, run as it stands there."""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from hvdm import config as configs
from hvdm import options, recipe
from hvdm.data import fields, moves
from hvdm.errors import UserError
from launcher import compose

PAGE = Path(__file__).parents[2] / "docs/adding_a_family.md"
NAMES = {
    **vars(recipe), **vars(options), **vars(moves), **vars(fields), "Literal": Literal,
    "dataclass": dataclasses.dataclass, "nn": nn, "Tensor": torch.Tensor,
    "DataConfig": configs.DataConfig,
}  # fmt: skip
"""Where its names are from, as the page says."""


def shown(language: str) -> list[str]:
    """Its blocks of a language; what it leaves out by … is anything that runs."""
    found = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [text.replace(": …", ": nn.Linear(1, 1)").replace("…", "...") for text in found]


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    names = {**NAMES, "__name__": __name__}
    for text in shown("python"):
        exec(compile(text, PAGE.name, "exec", dont_inherit=True), names)
    return names


def test_its_recipe_is_one(page: dict[str, Any]) -> None:
    made = page["build"](page["Config"](), recipe.Given(recipe.Clip(4, 8, 8)))
    recipe.check_declared(made, "the page's")
    assert [phase.net for phase in made.phases] == ["critic", "generator"]


def test_its_fields_are_read(page: dict[str, Any]) -> None:
    asked = SimpleNamespace(frames=4, height=8, width=8, classes=3)
    found = page["reads"](asked, asked)
    assert [field.name for field in found] == ["video", "flow", "label", "motion"]
    assert found[1].shape == (3, 2, 8, 8)


def test_its_options_are_typed(page: dict[str, Any]) -> None:
    kind = page["samples"]["grid"]
    pixels = np.zeros((4, 4, 3), np.uint8)
    found = configs.parse(kind.options, {"tone": "cold", "image": pixels})
    assert found.tone == "cold" and found.image.shape == (4, 4, 3)
    page["MyRecipe"].samples = page["samples"]
    recipe.check_declared(page["MyRecipe"](page["Config"](), recipe.Clip(4, 8, 8)), "the page's")


def test_an_option_that_no_word_spells_is_refused_when_built(page: dict[str, Any]) -> None:
    unread = dataclasses.make_dataclass(
        "Unread", [("image", recipe.Picture | None, options.option(None, "to begin with"))]
    )
    page["MyRecipe"].samples = {"grid": recipe.SampleKind("pictures", unread)}
    with pytest.raises(UserError, match="^mine: what=grid has an option 'image' .*read=f") as found:
        recipe.check_declared(page["MyRecipe"](page["Config"](), recipe.Clip(4, 8, 8)), "mine")
    assert "\n" not in str(found.value)


def test_its_yaml_is_a_config(tmp_path: Path) -> None:
    (text,) = shown("yaml")
    (tmp_path / "mine.yaml").write_text(text)
    found = compose.run_config(str(tmp_path / "mine.yaml"))
    assert (found.recipe, found.batch, found.data.frames) == ("my_family.stage", 64, 16)
    assert found.samples == 8 * 2**20 and found.model == {"width": 64}
