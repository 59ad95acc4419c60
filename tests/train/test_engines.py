"""Plain torch and every ZeRO stage, at any number of ranks, are one trajectory."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hvdm.checkpoint import checkpoint
from hvdm.config import CheckpointConfig, EngineConfig, Samples
from hvdm.run import run
from launcher.verbs.distance import difference
from tests.support.ranks import Ranks
from tests.support.toys import ADAMW, run_config

pytestmark = pytest.mark.processes

EACH = CheckpointConfig(every=Samples(5), keep=3)
"""Of a batch: every step is saved."""


def train(config: object) -> None:
    """In a rank process: the world is the process group's, whatever the config says."""
    run.train(config, sinks=())  # type: ignore[arg-type]


def engine(stage: int | None, precision: str = "fp32") -> EngineConfig:
    if stage is None:
        return EngineConfig("local", precision=precision)  # type: ignore[arg-type]
    return EngineConfig("deepspeed", zero=stage, precision=precision)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def straight(one_rank: Ranks, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    one_rank.run(train, run_config(folder / "run", shapes, checkpoint=EACH))
    return folder


def assert_alike(a: Path, b: Path) -> None:
    """First gradients by the momentum after one step; then the way gone under SGD."""
    for net, row in difference(f"{a}/run@1", f"{b}/run@1", kind="momentum_buffer").items():
        assert row["relative"] <= 1e-6, (net, row)
    for net, row in difference(f"{a}/run", f"{b}/run").items():
        assert row["travelled"] > 1e-3, (net, row)
        assert row["of_travel"] <= 1e-5, (net, row)


@pytest.mark.parametrize("stage", [None, 0, 1, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_two_networks_train_alike(
    world: int,
    stage: int | None,
    straight: Path,
    shapes: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    ranks = request.getfixturevalue({1: "one_rank", 2: "two_ranks", 3: "three_ranks"}[world])
    ranks.run(train, run_config(tmp_path / "run", shapes, engine=engine(stage), checkpoint=EACH))
    assert_alike(straight, tmp_path)


def test_another_seed_is_another_run(
    one_rank: Ranks, straight: Path, shapes: Path, tmp_path: Path
) -> None:
    """The control: the measure above does tell runs apart."""
    one_rank.run(train, run_config(tmp_path / "other", shapes, seed=1))
    rows = difference(f"{straight}/run", f"{tmp_path}/other")
    assert all(row["of_travel"] > 1e-2 for row in rows.values())


@pytest.mark.parametrize("world", [2, 3])
def test_adamw_in_double_precision(
    world: int, one_rank: Ranks, shapes: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    ranks = request.getfixturevalue({2: "two_ranks", 3: "three_ranks"}[world])
    config = run_config(
        tmp_path / "a", shapes, engine=engine(None, "fp64"), optimizer=ADAMW, steps=6
    )
    one_rank.run(train, config)
    ranks.run(train, replace(config, run=str(tmp_path / "b")))
    for net, row in difference(f"{tmp_path}/a", f"{tmp_path}/b").items():
        assert row["relative"] <= 1e-9, (net, row)


@pytest.mark.parametrize("stage", [None, 0, 1, 2])
def test_bf16_follows_fp32(
    stage: int | None, two_ranks: Ranks, straight: Path, shapes: Path, tmp_path: Path
) -> None:
    config = run_config(tmp_path / "run", shapes, engine=engine(stage, "bf16"))
    two_ranks.run(train, config)
    found = checkpoint.choose(tmp_path / "run", None)
    reader = checkpoint.Reader(found, "generator")
    assert reader.whole("master", "first.weight").dtype == torch.float32
    rows = difference(f"{straight}/run", f"{tmp_path}/run")
    assert all(row["of_travel"] < 0.2 for row in rows.values()), rows


@pytest.mark.parametrize("stage", [None, 0, 1, 2])
def test_clipping_is_by_the_norm_of_the_whole_gradient(
    stage: int | None, one_rank: Ranks, two_ranks: Ranks, shapes: Path, tmp_path: Path
) -> None:
    clipped = replace(run_config(tmp_path, shapes).optimizer, clip=0.05)
    config = run_config(tmp_path / "a", shapes, optimizer=clipped)
    one_rank.run(train, config)
    two_ranks.run(train, replace(config, run=str(tmp_path / "b"), engine=engine(stage)))
    assert all(
        row["of_travel"] <= 1e-5 for row in difference(f"{tmp_path}/a", f"{tmp_path}/b").values()
    )
