"""Image dynamics trains: one trajectory on 1, 2 and 3 ranks, resumed, with every engine."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_tools.derive import derive
from data_tools.motion_volumes import MotionVolumes
from data_tools.synthetic.making import make
from hvdm import opening
from hvdm.checkpoint import checkpoint
from hvdm.config import RunConfig
from hvdm.run import run
from launcher import compose
from launcher.cli import main
from launcher.verbs.distance import difference
from tests.support.ranks import Ranks

pytestmark = pytest.mark.processes

STAGES = ("autoencoder", "diffusion", "coordinated", "renderer")
SHARED = [
    "data.height=16", "data.width=24", "data.lanes=4", "data.window=4", "data.threads=1",
    "batch=6", "micro_batch=2", "steps=3", "checkpoint.every=6", "log.tensorboard=false",
    "cluster=inline",
]  # fmt: skip
UNET = ["model.width=8", "model.multipliers=[1,2]", "model.attending=[1]", "model.bins=4",
        "model.picture_width=4", "model.slices=2", "model.sampling_steps=3"]  # fmt: skip
SIZES = {
    "autoencoder": ["model.width=4", "model.multipliers=[1,2]", "model.bins=4", "model.frames=16",
                    "model.slices=2"],
    "diffusion": UNET,
    "coordinated": UNET,
    "renderer": ["model.widths=[4,8]", "model.blocks=[1,1]", "model.style=4", "data.frames=16"],
}  # fmt: skip
SGD = ("optimizer=sgd", "optimizer.lr=2", "optimizer.clip=1", "optimizer.warmup=0")
ZERO_STAGES = (0, 1, 2, 3) if os.environ.get("HVDM_SOAK") else (1, 3)
DOUBLE = "engine.precision=fp64"


def train(config: RunConfig) -> None:
    run.train(config, sinks=())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Motion of six clips, and a chain of stages that stand on each other."""
    folder = tmp_path_factory.mktemp("dynamics")
    make(folder / "sway", 0, train=6, test=2, per_shard=2, frames=16, height=16, width=24, fps=8,
         kind="sway")  # fmt: skip
    derive(folder / "sway", folder / "motion", MotionVolumes(bins=4, filter="none", flows=True))
    for stage in ("autoencoder", "diffusion", "coordinated"):
        train(composed(folder, stage, "first"))
    return folder


def composed(place: Path, stage: str, name: str, *more: str) -> RunConfig:
    below = {"diffusion": "autoencoder", "coordinated": "diffusion"}.get(stage)
    stands = [f"first_stage={place}/{below}-first"] if below else []
    typed = [*SHARED, *SIZES[stage], *stands, f"run={place}/{stage}-{name}",
             f"data.path={place}/motion", *more]  # fmt: skip
    return compose.run_config(f"tiny/image_dynamics_{stage}", typed)


def hashes(config: RunConfig) -> dict[str, dict[str, str]]:
    return checkpoint.hashes(checkpoint.choose(Path(config.run), None))


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_on_1_2_and_3_ranks_and_resumed_to_the_bit(
    stage: str, place: Path, one_rank: Ranks, two_ranks: Ranks, three_ranks: Ranks
) -> None:
    runs = {n: composed(place, stage, str(n), DOUBLE, "optimizer.warmup=0") for n in (1, 2, 3)}
    for ranks, config in zip((one_rank, two_ranks, three_ranks), runs.values()):
        ranks.run(train, config)
    for other in (2, 3):
        for row in difference(runs[1].run, runs[other].run).values():
            assert row["travelled"] > 1e-4 and row["relative"] <= 1e-9, (other, row)
        if stage == "autoencoder":
            (moments,) = difference(runs[1].run, runs[other].run, kind="buffer").values()
            assert moments["relative"] <= 1e-9, (other, moments)
    halves = composed(place, stage, "halves", DOUBLE, "optimizer.warmup=0", "steps=2")
    two_ranks.run(train, halves)
    two_ranks.run(train, replace(halves, steps=3))
    assert hashes(halves) == hashes(runs[2])


def test_stage_b_under_zero_0_to_3_is_plain_torch(
    place: Path, one_rank: Ranks, two_ranks: Ranks
) -> None:
    plain = composed(place, "coordinated", "plain", *SGD)
    one_rank.run(train, plain)
    for zero in ZERO_STAGES:
        engine = ("engine=deepspeed", f"engine.zero={zero}", "engine.precision=fp32")
        shared = composed(place, "coordinated", f"zero{zero}", *SGD, *engine)
        two_ranks.run(train, shared)
        for row in difference(plain.run, shared.run).values():
            assert row["travelled"] > 1e-4 and row["of_travel"] <= 1e-5, (zero, row)


def test_stage_bs_checkpoint_holds_only_what_trains(place: Path) -> None:
    manifest = checkpoint.choose(place / "coordinated-first", None).manifest
    own = manifest["nets"]["denoiser"]
    assert len(own["rest"]) == 64
    below = opening.open_run(place / "diffusion-first").nets["denoiser"].state_dict()
    above = opening.open_run(place / "coordinated-first").nets["denoiser"].state_dict()
    assert all(torch.equal(below[name], above[name]) for name in below)
    assert {name for name in above if name not in below} == {
        name for name in above if name.startswith("unet.across.")
    }


def test_it_samples_through_the_command_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    train(composed(place, "renderer", "first"))
    Image.new("RGBA", (50, 90), (40, 120, 60, 128)).save(tmp_path / "tall.png")
    typed = ["sample", f"run={place}/coordinated-first", f"out={tmp_path}/out", "count=1"]
    image = f"image={tmp_path}/tall.png"
    assert main([*typed, "what=image", image, f"renderer={place}/renderer-first"]) == 0
    assert main([*typed, "what=touch", image]) == 0
    assert main([*typed, "what=loop", image, "steps=2", "again=1"]) == 0
    found = {path.suffix for path in (tmp_path / "out").iterdir()}
    assert {".mp4", ".gif", ".html", ".png"} <= found
    capsys.readouterr()
    assert main([*typed, "what=image"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "image= is missing; what=image moves a picture: image=FILE" in line
    assert main([*typed, "what=image", image, f"renderer={place}/autoencoder-first"]) == 2
    assert "is no renderer: name a run of image_dynamics.renderer" in capsys.readouterr().err


def test_a_data_set_without_motion_says_who_makes_it(
    place: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = [*SHARED, *SIZES["autoencoder"], f"run={tmp_path}/run", f"data.path={shapes}"]
    assert main(["train", "config=tiny/image_dynamics_autoencoder", *sizes]) == 2
    assert "`hvdm data derive motion DIR out=OUT` makes it" in capsys.readouterr().err
