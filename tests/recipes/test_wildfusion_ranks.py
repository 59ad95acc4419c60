"""WildFusion's runs are one trajectory: on 1, 2 and 3 ranks, resumed, and with every engine."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from data_tools.synthetic.making import make
from hvdm.checkpoint import checkpoint
from hvdm.config import RunConfig
from hvdm.run import run
from launcher import compose
from launcher.verbs.distance import difference
from tests.support.ranks import Ranks

pytestmark = pytest.mark.processes

SIZES = [
    "data.height=16", "data.width=16", "data.lanes=4", "data.window=4", "data.threads=1",
    "batch=6", "micro_batch=2", "steps=3", "checkpoint.every=6", "log.tensorboard=false",
    "cluster=inline",
]  # fmt: skip
KINDS = {
    "autoencoder": [
        "model.trunk=[8,16]", "model.pyramid=8", "model.width=8", "model.doubling=[8]",
        "model.plane_channels=4", "model.hidden=8", "model.features=4", "model.rays=8",
        "model.coarse=6", "model.fine=4", "model.enlarging=[4]", "model.yaw_steps=2",
        "model.critics_from=1", "model.critics_ramp=1", "model.critic_widths=[4,8]",
        "model.depth_critic_widths=[4,8]", "model.penalty_every=2",
    ],
    "diffusion": ["model.width=8", "model.heads=2"],
}  # fmt: skip
SGD = {
    "autoencoder": ("optimizer=sgd", "optimizer.lr=0.05", "optimizer.of.critics.lr=0.5"),
    "diffusion": ("optimizer=sgd", "optimizer.lr=0.05", "optimizer.warmup=0"),
}
WHOLE = bool(os.environ.get("HVDM_SOAK"))
STAGES = {
    "autoencoder": (0, 1, 2) if WHOLE else (2,),
    "diffusion": (0, 1, 2, 3) if WHOLE else (3,),
}


def train(config: RunConfig) -> None:
    run.train(config, sinks=())


def composed(place: Path, kind: str, name: str, *more: str) -> RunConfig:
    below = [f"first_stage={place}/below"] if kind == "diffusion" else []
    typed = [*SIZES, *KINDS[kind], *below, f"data.path={place}/scenes", f"run={place}/{name}"]
    return compose.run_config(f"tiny/wildfusion_{kind}", [*typed, *more])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wild")
    make(folder / "scenes", train=24, test=4, per_shard=8, frames=1, height=16, width=16,
         kind="scenes")  # fmt: skip
    train(composed(folder, "autoencoder", "below", "steps=2"))
    return folder


def hashes(config: RunConfig) -> dict[str, dict[str, str]]:
    return checkpoint.hashes(checkpoint.choose(Path(config.run), None))


@pytest.mark.parametrize("kind", KINDS)
def test_one_trajectory_on_1_2_and_3_ranks_and_resumed_to_the_bit(
    kind: str, place: Path, one_rank: Ranks, two_ranks: Ranks, three_ranks: Ranks
) -> None:
    double = "engine.precision=fp64"
    runs = {n: composed(place, kind, f"{kind}-{n}", double) for n in (1, 2, 3)}
    for ranks, config in zip((one_rank, two_ranks, three_ranks), runs.values()):
        ranks.run(train, config)
    for other in (2, 3):
        for row in difference(runs[1].run, runs[other].run).values():
            assert row["travelled"] > 1e-4 and row["relative"] <= 1e-9, (other, row)
    halves = composed(place, kind, f"{kind}-halves", double, "steps=2")
    two_ranks.run(train, halves)
    two_ranks.run(train, replace(halves, steps=3))
    assert hashes(halves) == hashes(runs[2])


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_of_zero_is_plain_torch(
    kind: str, place: Path, one_rank: Ranks, two_ranks: Ranks
) -> None:
    plain = composed(place, kind, f"{kind}-plain", *SGD[kind])
    one_rank.run(train, plain)
    for stage in STAGES[kind]:
        engine = ("engine=deepspeed", f"engine.zero={stage}", "engine.precision=fp32")
        shared = composed(place, kind, f"{kind}-zero{stage}", *SGD[kind], *engine)
        two_ranks.run(train, shared)
        for row in difference(plain.run, shared.run).values():
            assert row["travelled"] > 1e-4 and row["of_travel"] <= 1e-5, (stage, row)
