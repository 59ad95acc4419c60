"""Digits that are read, and copies that are found, by `digits@1`."""

from pathlib import Path

import pytest
import torch

from data_tools.synthetic.making import make
from eval.evaluate import Request, evaluate
from eval.networks.digit_reader import ink
from eval.summaries import classes
from eval.summaries.classes import Read
from hvdm.errors import UserError
from tests.eval.conftest import MakeRun


def quiet(text: str) -> None:
    return None


@pytest.fixture(scope="module")
def handwriting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "moving"
    size = {"frames": 6, "height": 32, "width": 32}
    make(folder, kind="moving_digits", train=96, test=64, per_shard=32, **size)
    return folder


def measured(run: Path) -> dict[str, float]:
    found = evaluate(Request(str(run), "digits@1", clips=64, pictures=False), say=quiet)
    assert found["detector"] == "digits" and len(found["fields"]["detector"]["sha256"]) == 64
    debiased = {f"debiased {name}": value for name, value in found["debiased"].items()}
    return found["values"] | debiased


def test_new_handwriting_is_read_as_asked_and_copies_are_told_from_it(
    handwriting: Path, make_run: MakeRun, cache: Path
) -> None:
    new = measured(make_run(kind="writer", data=handwriting))
    assert min(new[name] for name in ("class", "class_last", "kept")) >= 0.95
    assert new["motion"] == pytest.approx(1, abs=0.25)
    assert new["within_class"] == pytest.approx(1, abs=0.15)
    assert new["nearest"] == pytest.approx(1, abs=0.25)
    assert new["debiased distance"] < new["debiased distance_blurred"]
    # held out, learned from, and that blurred: the next evaluation finds them
    assert len(list((cache / "features").iterdir())) == 3
    copied = measured(make_run("again", kind="copier", data=handwriting))
    assert copied["class"] >= 0.95 and copied["nearest"] < 0.25


def test_noise_is_no_digit(handwriting: Path, make_run: MakeRun) -> None:
    """It was asked for no class, so none is judged; but for its distance."""
    found = measured(make_run(kind="generator", data=handwriting))
    assert "class" not in found and "class_last" not in found and "within_class" not in found
    assert found["distance"] > found["distance_blurred"]


def test_what_does_not_go_with_it(handwriting: Path, make_run: MakeRun) -> None:
    run = str(make_run(kind="writer", data=handwriting))
    with pytest.raises(UserError, match="detector=untrained does not read"):
        evaluate(Request(run, "digits@1", detector="untrained"), say=quiet)
    split = str(handwriting / "train")
    with pytest.raises(UserError, match="needs run="):
        evaluate(Request(None, "digits@1", real=str(handwriting / "test"), generated=split))


def seen(features: list[float], digits: list[list[int]], labels: list[int]) -> Read:
    rows = torch.tensor(features, dtype=torch.float64)[:, None]
    places = torch.zeros(len(rows), len(digits[0]), 2, dtype=torch.float64)
    places[:, :, 0] = torch.arange(len(digits[0])) * rows
    return Read(rows, torch.tensor(digits), places, torch.tensor(labels))


def test_figures_by_hand() -> None:
    real = seen([0.0, 1.0, 5.0, 7.0], [[1, 1], [1, 1], [2, 2], [2, 2]], [1, 1, 2, 2])
    made = seen([0.0, 3.0, 5.0, 8.0], [[1, 1], [1, 2], [3, 2], [2, 2]], [1, 1, 2, 2])
    assert classes.first_as_asked(made) == 0.75
    assert classes.last_as_asked(made) == 0.75
    assert classes.kept(made) == 0.5
    # pairs of a class: 1 and 2 apart, against 3 and 3
    assert classes.within_class(real)(made) == 2.0
    # nearest of 0 and 4: 0, 1, 1, 3 with a median of 1, against 0, 1, 1, 4
    known = seen([0.0, 4.0], [[1, 1], [2, 2]], [1, 2])
    assert classes.nearest(real, known)(made) == 1.0
    assert classes.motion(real)(made) == 16 / 13


def test_ink_lies_where_it_was_put() -> None:
    frames = torch.full((2, 21, 41, 3), 40, dtype=torch.uint8)
    frames[0, 5, 10] = frames[1, 20, 40] = 250
    assert torch.allclose(ink(frames), torch.tensor([[0.25, 0.25], [1.0, 1.0]]))


def test_too_few_clips_to_compare_within_a_class() -> None:
    alone = seen([0.0, 1.0], [[1, 1], [2, 2]], [1, 2])
    with pytest.raises(UserError, match="no class comes twice among 2; ask for more"):
        classes.within_class(alone)
