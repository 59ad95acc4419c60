"""WaveDiff's runs are one trajectory: on 1, 2 and 3 ranks, resumed, and with every engine."""

from dataclasses import replace
from pathlib import Path

import pytest

from hvdm.checkpoint import checkpoint
from hvdm.config import RunConfig
from hvdm.run import run
from launcher import compose
from launcher.verbs.distance import difference
from tests.support.ranks import Ranks

pytestmark = pytest.mark.processes

SIZES = [
    "model.width=8", "model.multipliers=[1,2]", "model.labels=0", "model.critic_width=4",
    "model.mapping=1", "model.critic_layers=2", "data.height=16", "data.width=16",
    "data.lanes=4", "data.window=4", "data.threads=1", "checkpoint.every=12",
    "log.tensorboard=false", "cluster=inline",
]  # fmt: skip
KINDS = {
    "pictures": ["tiny/wavediff"],
    "clips": ["tiny/wavediff_video", "data.frames=4", "model.before=4", "model.over_time=[4]"],
}
SGD = ("optimizer=sgd", "optimizer.lr=0.05", "optimizer.clip=1", "optimizer.warmup=0")


def train(config: RunConfig) -> None:
    run.train(config, sinks=())


def composed(place: Path, shapes: Path, kind: str, name: str, *more: str) -> RunConfig:
    """Three groups of four a step, in micro-batches of one group."""
    config, *own = KINDS[kind]
    typed = [
        *SIZES, *own, f"run={place}/{kind}-{name}", f"data.path={shapes}", "batch=12",
        "micro_batch=4", "steps=3", "model.penalty_every=2", *more,
    ]  # fmt: skip
    return compose.run_config(config, typed)


def hashes(config: RunConfig) -> dict[str, dict[str, str]]:
    return checkpoint.hashes(checkpoint.choose(Path(config.run), None))


@pytest.mark.parametrize("kind", KINDS)
def test_groups_are_the_same_on_1_2_and_3_ranks_and_resumed_to_the_bit(
    kind: str, shapes: Path, tmp_path: Path, one_rank: Ranks, two_ranks: Ranks, three_ranks: Ranks
) -> None:
    double = "engine.precision=fp64"
    runs = {n: composed(tmp_path, shapes, kind, str(n), double) for n in (1, 2, 3)}
    for ranks, config in zip((one_rank, two_ranks, three_ranks), runs.values()):
        ranks.run(train, config)
    for other in (2, 3):
        for row in difference(runs[1].run, runs[other].run).values():
            assert row["travelled"] > 1e-3 and row["relative"] <= 1e-9, (other, row)
    halves = composed(tmp_path, shapes, kind, "halves", double, "steps=2")
    two_ranks.run(train, halves)
    two_ranks.run(train, replace(halves, steps=3))
    assert hashes(halves) == hashes(runs[2])


@pytest.mark.parametrize("kind, stages", [("pictures", (0, 1, 2)), ("clips", (2,))])
def test_zero_0_to_2_are_plain_torch(
    kind: str,
    stages: tuple[int, ...],
    shapes: Path,
    tmp_path: Path,
    one_rank: Ranks,
    two_ranks: Ranks,
) -> None:
    plain = composed(tmp_path, shapes, kind, "plain", *SGD)
    one_rank.run(train, plain)
    for stage in stages:
        engine = ("engine=deepspeed", f"engine.zero={stage}", "engine.precision=fp32")
        shared = composed(tmp_path, shapes, kind, f"zero{stage}", *SGD, *engine)
        two_ranks.run(train, shared)
        for row in difference(plain.run, shared.run).values():
            assert row["travelled"] > 1e-3 and row["of_travel"] <= 1e-5, (stage, row)
