"""Channels innermost in memory: the same numbers, and the same order of weights in checkpoints."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from hvdm import opening
from hvdm.config import EngineConfig
from hvdm.nets.blocks import channels_last
from hvdm.recipe import as_batch
from hvdm.run import run
from launcher.verbs.distance import difference
from tests.run.test_resume import last_hashes, train
from tests.support.ranks import Ranks
from tests.support.toys import ADAMW, run_config
from tests.train.test_engines import engine

INNERMOST = torch.channels_last_3d


def test_activations_turn_and_weights_stay() -> None:
    net = nn.Sequential(nn.Conv3d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Conv3d(8, 4, 3))
    rows = torch.randn(2, 3, 4, 8, 8)
    plain = net(rows)
    channels_last(net)
    turned = net(rows)
    assert not plain.is_contiguous(memory_format=INNERMOST)
    assert turned.is_contiguous(memory_format=INNERMOST)
    torch.testing.assert_close(turned, plain)
    turned.square().sum().backward()
    for p in net.parameters():
        assert p.is_contiguous() and p.grad is not None and p.grad.is_contiguous()


@pytest.mark.processes
@pytest.mark.parametrize("stage", [None, 2, 3])
def test_a_run_is_the_same_and_resumes_to_the_bit(
    stage: int | None, one_rank: Ranks, shapes: Path, tmp_path: Path
) -> None:
    turned = replace(engine(stage), channels_last=True)
    recipe = "hvdm.autoencoder" if stage == 3 else "tests.support.toys"
    config = run_config(
        tmp_path / "turned", shapes, recipe, engine=turned, optimizer=ADAMW, steps=4
    )
    one_rank.run(train, config)
    broken = replace(config, run=str(tmp_path / "broken"))
    one_rank.run(train, replace(broken, steps=2))
    one_rank.run(train, broken)
    assert last_hashes(tmp_path / "turned") == last_hashes(tmp_path / "broken")


def test_both_layouts_train_alike_and_are_opened(shapes: Path, tmp_path: Path) -> None:
    """In float64, where what is left is the mathematics; the second half changes the layout."""
    exact = EngineConfig("local", precision="fp64")
    turned = replace(exact, channels_last=True)
    config = run_config(
        tmp_path / "plain", shapes, "hvdm.autoencoder", engine=exact, optimizer=ADAMW, steps=4
    )
    run.train(config, sinks=())
    mixed = replace(config, run=str(tmp_path / "mixed"), engine=turned)
    run.train(replace(mixed, steps=2, engine=exact), sinks=())
    run.train(mixed, sinks=())
    for net, row in difference(f"{tmp_path}/plain", f"{tmp_path}/mixed").items():
        assert row["travelled"] > 1e-3 and row["of_travel"] <= 1e-9, (net, row)
    clip = torch.rand(1, 3, 4, 16, 16)
    with torch.no_grad():
        plain, other = (
            opened.recipe.coder.encode(opened.nets, as_batch(clip))
            for opened in map(opening.open_run, (tmp_path / "plain", tmp_path / "mixed"))
        )
    torch.testing.assert_close(other, plain, atol=1e-5, rtol=0)
