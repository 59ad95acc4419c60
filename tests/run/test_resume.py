"""A run that was killed and resumed is the run that was not."""

import json
import os
import pickle
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hvdm import dist
from hvdm.checkpoint import checkpoint, storage, writing
from hvdm.config import CheckpointConfig, LogConfig, RunConfig, Samples, renewed
from hvdm.errors import RunError, UserError
from hvdm.run import claims, run
from hvdm.train.loop import train_step
from tests.support.ranks import Ranks
from tests.support.toys import ADAMW, run_config
from tests.train.test_engines import engine


def train(config: RunConfig) -> None:
    """In a rank process; the global generators are scrambled, since nothing may stand on them."""
    scramble = int.from_bytes(os.urandom(4), "big")
    torch.manual_seed(scramble)
    np.random.seed(scramble)
    random.seed(scramble)
    run.train(config, sinks=())


def last_hashes(folder: Path) -> dict[str, dict[str, str]]:
    return checkpoint.hashes(checkpoint.choose(folder, None))


def all_hashes(folder: Path) -> set[str]:
    return {value for net in last_hashes(folder).values() for value in net.values()}


@pytest.mark.processes
@pytest.mark.parametrize("stage", [None, 0, 1, 2])
@pytest.mark.parametrize("world", [1, 3])
def test_resumed_is_straight_to_the_bit(
    world: int, stage: int | None, shapes: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    ranks = request.getfixturevalue({1: "one_rank", 3: "three_ranks"}[world])
    config = run_config(
        tmp_path / "straight", shapes, engine=engine(stage), optimizer=ADAMW, steps=4
    )
    ranks.run(train, config)
    broken = replace(config, run=str(tmp_path / "resumed"))
    ranks.run(train, replace(broken, steps=2))
    ranks.run(train, broken)
    assert last_hashes(tmp_path / "straight") == last_hashes(tmp_path / "resumed")


def test_another_seed_has_no_bit_of_it(shapes: Path, tmp_path: Path) -> None:
    """The control."""
    config = run_config(tmp_path / "straight", shapes, optimizer=ADAMW, steps=2)
    train(config)
    train(replace(config, run=str(tmp_path / "control"), seed=1))
    assert not all_hashes(tmp_path / "straight") & all_hashes(tmp_path / "control")


@pytest.mark.processes
def test_every_engine_reads_what_the_others_wrote(
    one_rank: Ranks, two_ranks: Ranks, three_ranks: Ranks, shapes: Path, tmp_path: Path
) -> None:
    """Each goes on from the one before it; the end is that of one undisturbed run."""
    ways = [(two_ranks, None), (three_ranks, 2), (one_rank, 1), (two_ranks, 0), (three_ranks, None)]
    straight = run_config(tmp_path / "straight", shapes, steps=2 * len(ways))
    one_rank.run(train, straight)
    for i, (ranks, stage) in enumerate(ways, start=1):
        config = replace(straight, run=str(tmp_path / "relay"), steps=2 * i)
        ranks.run(train, replace(config, engine=engine(stage)))
    from launcher.verbs.distance import difference

    for row in difference(f"{tmp_path}/straight", f"{tmp_path}/relay").values():
        assert row["of_travel"] <= 1e-5, row


@pytest.fixture
def trained(shapes: Path, tmp_path: Path) -> RunConfig:
    config = run_config(
        tmp_path / "run",
        shapes,
        steps=4,
        checkpoint=CheckpointConfig(every=Samples(10), keep=3),
    )
    run.train(config, sinks=())
    return config


def test_a_finished_run_is_left_alone(
    trained: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    before = last_hashes(Path(trained.run))
    outcome = run.train(trained)
    assert outcome.finished and outcome.step == 4
    assert "is finished" in capsys.readouterr().out
    assert last_hashes(Path(trained.run)) == before


@pytest.mark.parametrize(
    "change, named",
    [
        ({"seed": 5}, "seed was 0, is now 5"),
        ({"batch": 4}, "batch was 5, is now 4"),
        ({"optimizer": ADAMW}, "optimizer.lr was 0.02, is now 0.001"),
        ({"model": {"width": 16}}, "model.width"),
    ],
)
def test_another_run_in_the_folder_is_refused(
    trained: RunConfig, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        run.train(replace(trained, steps=6, **change), sinks=())


def test_engine_cluster_and_logging_may_change(trained: RunConfig) -> None:
    changed = replace(trained, steps=5, micro_batch=1, log=replace(trained.log, every=Samples(99)))
    assert run.train(changed, sinks=()).step == 5


def damage(folder: Path, how: str) -> None:
    path = next(folder.glob("*.safetensors"))
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif how == "bit":
        data = bytearray(path.read_bytes())
        data[-100] ^= 1
        path.write_bytes(bytes(data))
    else:
        (folder / "manifest.json").write_text("{")


@pytest.mark.parametrize("how", ["gone", "cut", "bit", "manifest"])
def test_a_damaged_checkpoint_falls_back_aloud(
    trained: RunConfig, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(trained.run) / "checkpoints"
    damage(folder / checkpoint.name_of(4), how)
    run.train(replace(trained, steps=5))
    said = capsys.readouterr().out
    assert "checkpoint refused" in said and "resumed: step=2" in said


def test_none_valid_is_an_error_and_never_step_zero(trained: RunConfig) -> None:
    for folder in (Path(trained.run) / "checkpoints").glob("step-*"):
        damage(folder, "bit")
    with pytest.raises(RunError, match="no checkpoint of .* is valid.*damaged"):
        run.train(replace(trained, steps=6), sinks=())


def test_a_part_folder_is_never_listed_and_goes_with_the_next_save(trained: RunConfig) -> None:
    part = Path(trained.run) / "checkpoints" / ".part-step-00000005"
    part.mkdir()
    (part / "critic.rank00000.safetensors").write_bytes(b"half")
    run.train(replace(trained, steps=5), sinks=())
    assert not part.exists()
    assert [c.step for c in checkpoint.listed(Path(trained.run))] == [2, 4, 5]


def test_a_full_disk_leaves_no_half_written_checkpoint(
    trained: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write_files", full)
    with pytest.raises(RunError, match="step 6 .*No space left.*same command"):
        run.train(replace(trained, steps=6), sinks=())
    names = {p.name for p in (Path(trained.run) / "checkpoints").iterdir()} - {"latest"}
    assert names == {checkpoint.name_of(2), checkpoint.name_of(4)}
    monkeypatch.undo()
    assert run.train(replace(trained, steps=6), sinks=()).finished


def test_only_the_last_are_kept(trained: RunConfig) -> None:
    run.train(replace(trained, steps=12), sinks=())
    assert [c.step for c in checkpoint.listed(Path(trained.run))] == [8, 10, 12]


def test_two_jobs_do_not_train_one_folder(
    trained: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "PATIENCE_S", 0.0)
    with (
        run.claimed(Path(trained.run)),
        pytest.raises(UserError, match="being trained by another process"),
    ):
        run.train(replace(trained, steps=6), sinks=())


def test_the_step_function_is_the_only_one() -> None:
    """A second training loop is the disease that this design is against."""
    root = Path(run.__file__).parents[2]
    folders = [root / name for name in ("hvdm", "launcher", "eval", "data_tools")]
    found = [
        path.relative_to(root).as_posix()
        for folder in folders
        for path in folder.rglob("*.py")
        if ".backward(" in path.read_text()
    ]
    found.remove(
        "launcher/sizing/footprint.py"
    )  # counts the bytes of one backward, and moves nothing
    assert sorted(found) == ["hvdm/train/engine.py", "hvdm/train/loop.py", "hvdm/train/zero.py"]
    assert train_step.__module__ == "hvdm.train.loop"


def test_a_run_from_before_the_recipe_said_what_it_reads_goes_on() -> None:
    data = {"path": "set", "before": 8, "flip": 0.5}
    then = {"recipe": "hvdm.diffusion", "model": {"width": 8}, "data": data}
    now = renewed(then)
    assert now["model"] == {"width": 8, "before": 8}
    assert now["data"] == {"path": "set", "flip": 0.5, "turn": 0.0}
    assert renewed(now) == now and renewed({"imported": "x"}) == {"imported": "x"}


def stopped_by(config: RunConfig) -> str:
    """In a rank process."""
    with pytest.raises(RunError) as found:
        run.train(config, sinks=())
    return str(found.value)


@pytest.mark.processes
def test_a_shard_that_is_cut_stops_all_ranks_before_the_first_step(
    shapes: Path, tmp_path: Path, two_ranks: Ranks
) -> None:
    """Each rank asks for the sizes of its share, and all hear what any of them found."""
    damaged = Path(shutil.copytree(shapes, tmp_path / "set"))
    (damaged / "train/shard-000003.tar").write_bytes(b"")
    said = two_ranks.run(stopped_by, run_config(tmp_path / "run", damaged))
    assert said[0] == said[1] and "shard-000003.tar has 0 bytes instead of" in said[0]
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))


def test_what_ranks_tell_each_other_at_a_save_does_not_grow_with_what_was_lost(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log line is one exchange; and what a checkpoint said already is told by nobody again."""
    config = run_config(tmp_path / "run", shapes, steps=1)
    run.train(config, sinks=())
    (manifest,) = (tmp_path / "run/checkpoints").glob("step-*/manifest.json")
    told = [[1, 0, "shard-000000.tar", f"train-{n:08d}", "x" * 9000, "train-3"] for n in range(3)]
    content = {**json.loads(manifest.read_bytes()), "substitutions": told}
    manifest.write_bytes(storage.dumped(content))
    gathered: list[int] = []
    honest = dist.all_gather
    monkeypatch.setattr(
        dist, "all_gather", lambda v: gathered.append(len(pickle.dumps(v))) or honest(v)
    )
    every = LogConfig(every=Samples(config.batch), tensorboard=False)
    data = replace(config.data, damaged=1.0)
    run.train(replace(config, steps=4, data=data, log=every), sinks=())
    few, last = len(gathered), checkpoint.choose(tmp_path / "run", None)
    assert last.manifest["substitutions"] == told and max(gathered) < 9000
    gathered.clear()
    run.train(replace(config, steps=14, data=data, log=every), sinks=())
    assert len(gathered) == few + 7  # ten steps for three, and a line for each
