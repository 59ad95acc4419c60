"""What a family says of its rows holds from the shard to the weights, on any number of workers."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_tools.synthetic.making import encode_h264
from data_tools.synthetic.rendering import render
from data_tools.writer import Sample, write_shard
from hvdm import building
from hvdm.checkpoint import checkpoint
from hvdm.config import RunConfig
from hvdm.data.loader import Loader
from hvdm.data.order import share
from hvdm.data.schema import VERSION, Manifest, canonical, write_manifest
from hvdm.errors import UserError
from hvdm.run import run
from launcher import compose
from launcher.cli import main
from launcher.sizing import models
from tests.support.ranks import Ranks

FAMILIES = ("moving", "grouped")
FRAMES = 4


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips with a field of vectors beside each; their json is without motion."""
    folder = tmp_path_factory.mktemp("moving") / "set"
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        shard = write_shard(folder / split / "shard-000000.tar", map(clip, range(8)))
        write_manifest(folder / split, Manifest(VERSION, split, 8, (shard,), {}))
    return folder


def clip(number: int) -> Sample:
    file = io.BytesIO()
    flow = np.random.default_rng(number).normal(size=(FRAMES - 1, 2, 16, 16))
    np.save(file, flow.astype(np.float32))
    about = canonical({"frames": FRAMES, "label": number % 2})
    video = encode_h264(render(0, number, FRAMES, 16, 16).video, 8)
    return Sample(f"c{number}", {"flow.npy": file.getvalue(), "json": about, "mp4": video})


def composed(family: str, folder: Path, data: Path, *more: str) -> RunConfig:
    return compose.run_config(
        f"tests/seams/{family}.yaml",
        [f"run={folder}", f"data.path={data}", "cluster=inline", "log.tensorboard=false", *more],
    )


def train(config: RunConfig) -> None:
    run.train(config, sinks=())


def weights(folder: Path) -> torch.Tensor:
    found = checkpoint.weights(checkpoint.choose(folder, None), "body", False)
    return torch.cat([found[name].flatten().double() for name in sorted(found)])


def apart(a: Path, b: Path) -> float:
    return float((weights(a) - weights(b)).norm() / weights(a).norm())


@pytest.mark.processes
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains_resumes_and_is_the_same_on_more_workers(
    family: str, moving: Path, shapes: Path, tmp_path: Path, one_rank: Ranks, two_ranks: Ranks,
    three_ranks: Ranks,
) -> None:  # fmt: skip
    data = moving if family == "moving" else shapes
    straight = composed(family, tmp_path / "1", data, "engine.precision=fp64")
    one_rank.run(train, straight)
    for ranks in (two_ranks, three_ranks):
        other = tmp_path / str(ranks.world)
        ranks.run(train, replace(straight, run=str(other)))
        assert apart(tmp_path / "1", other) < 1e-9
    broken = replace(straight, run=str(tmp_path / "broken"))
    three_ranks.run(train, replace(broken, steps=2))
    three_ranks.run(train, broken)
    hashes = [checkpoint.hashes(checkpoint.choose(tmp_path / f, None)) for f in ("3", "broken")]
    assert hashes[0] == hashes[1]
    one_rank.run(train, replace(straight, run=str(tmp_path / "seed"), seed=1))
    assert apart(tmp_path / "1", tmp_path / "seed") > 1e-3


def test_a_group_that_is_cut_in_two_is_found(shapes: Path, tmp_path: Path) -> None:
    config = composed("grouped", tmp_path / "run", shapes)
    recipe, (phase,) = building.build_recipe(config), building.build_recipe(config).phases
    with building.build_loader(config, "train") as loader:
        sums = [total(loader, phase.loss, world, group) for world, group in WORLDS]
    assert recipe.group == 4  # type: ignore[attr-defined]
    assert sums[1] == pytest.approx(sums[0], rel=1e-6)
    assert sums[2] != pytest.approx(sums[0], rel=1e-3)


WORLDS = ((1, 4), (3, 4), (3, 1))


def total(loader: Loader, loss, world: int, group: int) -> float:  # type: ignore[no-untyped-def]
    batches = [
        batch
        for rank in range(world)
        for batch in next(loader.steps(0, 1, 8, 4, rank, world, group))
    ]
    return sum(float((loss(batch, None)[0].detach() * batch.weight).sum()) for batch in batches)


def test_groups_reach_ranks_and_padding_whole() -> None:
    shares = [share(8, 4, rank, 3, group=4) for rank in range(3)]
    rows = [[row for part in parts for row, _ in part] for parts in shares]
    assert rows == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]]
    assert [sum(w for part in parts for _, w in part) for parts in shares] == [0, 4, 4]


@pytest.mark.parametrize("key", ["batch", "micro_batch"])
def test_a_batch_that_cuts_groups_is_refused(key: str, shapes: Path, tmp_path: Path) -> None:
    config = composed("grouped", tmp_path / "run", shapes, f"{key}=6")
    with pytest.raises(UserError, match=f"{key}=6: .* groups of 4 rows, so it has to be a multip"):
        building.build_recipe(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_it_costs_is_known(family: str) -> None:
    networks = models.describe(f"tests/seams/{family}.yaml")["networks"]
    assert networks["body"]["multiply_adds"] > 0


def refused(capsys: pytest.CaptureFixture[str], *typed: str) -> str:
    """The one line of a run that ends with exit code 2."""
    assert main(["train", "cluster=inline", "steps=1", *typed]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_a_field_that_the_data_set_is_without_is_named(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = (f"run={tmp_path}/run", f"data.path={shapes}", "data.height=16", "data.width=16")
    line = refused(capsys, "config=tests/seams/moving.yaml", *where)
    assert f"{shapes}/train has no field 'flow'" in line and "join it to the clips" in line


def test_clips_without_motion_are_not_still(
    moving: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = [f"data.path={moving}", "data.frames=2", "data.height=16", "data.width=16", "batch=2"]
    size += ["micro_batch=2"]
    first = ["config=tiny/hvdm_autoencoder", f"run={tmp_path}/first", *size]
    narrow = ["model.width=16", "model.depth=1"]
    assert main(["train", "cluster=inline", "steps=1", *first, *narrow]) == 0
    capsys.readouterr()
    line = refused(
        capsys, "config=tiny/hvdm_diffusion", f"run={tmp_path}/run", *size, "model.before=2",
        f"first_stage={tmp_path}/first", "model.motion=stored", "model.width=8",
        "model.multipliers=[1]",
    )  # fmt: skip
    assert f"{moving}/train has no field 'motion'" in line
    assert "`hvdm data shard` and `hvdm data synthetic` write it" in line
