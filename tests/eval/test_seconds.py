"""How long samples take, by `seconds@1`."""

import time
from dataclasses import replace

import pytest
import torch

from eval.evaluate import Request, evaluate
from eval.protocol.protocol import PROTOCOLS, find
from hvdm.errors import UserError
from tests.eval.conftest import MakeRun
from tests.eval.eval_toy_recipe import ToyGenerator


def quiet(text: str) -> None:
    return None


def test_a_batch_and_one_by_itself_are_timed_after_warm_ups(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    import eval_toy_recipe as recipe

    drawn: list[int] = []
    own = recipe.ToyGenerator.sample

    def slow(self: ToyGenerator, nets: torch.nn.ModuleDict, request, noise) -> torch.Tensor:
        drawn.append(len(noise.draws))
        time.sleep(0.002 * len(noise.draws))
        made: torch.Tensor = own(self, nets, request, noise)
        return made

    monkeypatch.setattr(recipe.ToyGenerator, "sample", slow)
    few = replace(find("seconds"), name="toy/seconds", batch=6)
    monkeypatch.setitem(PROTOCOLS, few.full_name, few)
    run = str(make_run(kind="generator"))
    found = evaluate(Request(run, "toy/seconds@1", clips=4, pictures=False), say=quiet)
    assert drawn == [6] * 14 + [1] * 14
    values = found["values"]
    assert values["seconds_per_batch"] > 0.012 > values["seconds_alone"] > 0.002
    assert values["seconds_per_sample"] <= values["seconds_per_batch"]
    assert found["standard_error"]["seconds_per_batch"] > 0
    assert found["counts"]["clips"] == 4 and found["fields"]["batch"] == 6
    assert found["fields"]["timed"] == {"device": "cpu", "threads": 1, "warm_ups": 10}


def test_what_samples_nothing_has_no_seconds(make_run: MakeRun) -> None:
    with pytest.raises(UserError, match="this model samples nothing"):
        evaluate(Request(str(make_run()), "seconds@1", clips=2), say=quiet)
    with pytest.raises(UserError, match="needs run=: a model that samples"):
        evaluate(Request(None, "seconds@1", generated="python:a:b"), say=quiet)
