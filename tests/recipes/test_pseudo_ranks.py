"""Pseudo-video runs are one trajectory: on 1, 2 and 3 ranks, resumed, and with every engine."""

from dataclasses import replace
from pathlib import Path

import pytest

from hvdm import opening
from hvdm.checkpoint import checkpoint
from hvdm.config import RunConfig
from hvdm.run import run
from launcher import compose
from launcher.verbs.distance import difference
from tests.support.ranks import Ranks

pytestmark = pytest.mark.processes

SIZES = [
    "data.height=8", "data.width=8", "data.lanes=4", "data.window=4", "data.threads=1",
    "checkpoint.every=100", "log.tensorboard=false", "cluster=inline", "batch=6",
    "micro_batch=2",
]  # fmt: skip
TOKENIZER = [
    "model.width=16", "model.heads=2", "model.head_dim=8", "model.spatial=1", "model.codes=12",
    "model.code_width=4", "model.kmeans=1", "model.dead=2", "model.decay=0.5",
    "model.critic_width=4", "model.adversarial_from=2", "model.penalty_every=2",
    "model.corruption=noise",
]  # fmt: skip
PRIOR = ["model.width=12", "model.depth=1", "model.heads=2"]
KINDS = {
    "diffusion": ["model.width=8", "model.multipliers=[1,2]", "model.heads=2"],
    "tokenizer": TOKENIZER,
    "autoregressive": PRIOR,
    "masked": [*PRIOR, "model.head_dim=6"],
}
PRIORS = ("autoregressive", "masked")
SGD = ("optimizer=sgd", "optimizer.lr=0.05", "optimizer.clip=1", "optimizer.warmup=0",
       "optimizer.schedule=constant", "optimizer.decay=null")  # fmt: skip


def train(config: RunConfig) -> None:
    run.train(config, sinks=())


@pytest.fixture(scope="module")
def place(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a tokenizer that others work on."""
    folder = tmp_path_factory.mktemp("pseudo")
    (folder / "shapes").symlink_to(shapes)
    train(composed(folder, "tokenizer", "below", "steps=2"))
    return folder


def composed(place: Path, kind: str, name: str, *more: str) -> RunConfig:
    below = [f"first_stage={place}/tokenizer-below"] if kind in PRIORS else []
    typed = [
        *SIZES, *KINDS[kind], *below, f"run={place}/{kind}-{name}", f"data.path={place}/shapes",
        "steps=5", *more,
    ]  # fmt: skip
    return compose.run_config(f"tiny/pseudo_{kind}", typed)


def apart(kind: str, first: RunConfig, second: RunConfig) -> float:
    """How far a tokenizer's buffers are from another's, at most; others have none."""
    if kind != "tokenizer":
        return 0.0
    nets = [opening.open_run(one.run).nets for one in (first, second)]
    pairs = zip(nets[0][kind].buffers(), nets[1][kind].buffers(), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


def hashes(config: RunConfig) -> dict[str, dict[str, str]]:
    return checkpoint.hashes(checkpoint.choose(Path(config.run), None))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_on_1_2_and_3_ranks_and_resumed_to_the_bit(
    kind: str, place: Path, one_rank: Ranks, two_ranks: Ranks, three_ranks: Ranks
) -> None:
    double = "engine.precision=fp64"
    runs = {n: composed(place, kind, str(n), double) for n in (1, 2, 3)}
    for ranks, config in zip((one_rank, two_ranks, three_ranks), runs.values()):
        ranks.run(train, config)
    for other in (2, 3):
        for row in difference(runs[1].run, runs[other].run).values():
            assert row["relative"] <= 1e-9, (other, row)
        assert apart(kind, runs[1], runs[other]) <= 1e-9
    halves = composed(place, kind, "halves", double, "steps=3")
    two_ranks.run(train, halves)
    two_ranks.run(train, replace(halves, steps=5))
    assert hashes(halves) == hashes(runs[2])
    if kind == "tokenizer":
        resets = [
            int(opening.open_run(f"{c.run}{at}").recipe.book.resets)  # type: ignore[attr-defined]
            for c, at in ((halves, "@3"), (halves, ""))
        ]
        assert 12 <= resets[0] < resets[1], "no code was reset between"


def test_codes_of_one_ranks_rows_are_found(place: Path, one_rank: Ranks, two_ranks: Ranks) -> None:
    """The control."""
    more = ("recipe=tests.recipes.pseudo_of_own_rows", "engine.precision=fp64", "micro_batch=6")
    runs = [composed(place, "tokenizer", f"own{n}", *more) for n in (1, 2)]
    for ranks, config in zip((one_rank, two_ranks), runs):
        ranks.run(train, config)
    assert apart("tokenizer", *runs) > 1e-3


@pytest.mark.parametrize(
    "kind, stage",
    [
        *((kind, stage) for kind in ("diffusion", *PRIORS) for stage in (0, 1, 2, 3)),
        *(("tokenizer", stage) for stage in (0, 1, 2)),
    ],
)
def test_every_engine_trains_alike(
    kind: str, stage: int, place: Path, one_rank: Ranks, two_ranks: Ranks
) -> None:
    plain = composed(place, kind, "plain", *SGD)
    one_rank.run(train, plain)
    shared = composed(place, kind, f"zero{stage}", *SGD, "engine=deepspeed", f"engine.zero={stage}")
    two_ranks.run(train, shared)
    for row in difference(plain.run, shared.run).values():
        assert row["of_travel"] <= 1e-5, row


def test_stage_3_is_refused_for_two_networks(place: Path) -> None:
    from hvdm import building
    from hvdm.errors import UserError

    config = composed(place, "tokenizer", "zero3", "engine=deepspeed", "engine.zero=3")
    with pytest.raises(UserError, match="engine.zero=3 does not work"):
        building.check_recipe(config, building.build_recipe(config))
