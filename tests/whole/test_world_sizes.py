"""`cluster=inline engine=local` and every engine on 2 and 3 workers are one trajectory.

Under Ray in `make soak`, at the size of the config; otherwise smaller, and on ranks that are there.
That workers under Ray end on the same bits as such ranks is for test_whole_way.py, test_outage.py.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from data_tools.synthetic.making import make
from hvdm import config as configs
from hvdm.config import ClusterConfig, RunConfig
from hvdm.run import run
from launcher import compose
from launcher.verbs.distance import difference
from launcher.workers import group as groups
from tests.support.ranks import Ranks
from tests.whole.spoiling import train_each, train_each_here

WHOLE = bool(os.environ.get("HVDM_SOAK"))
pytestmark = pytest.mark.ray if WHOLE else pytest.mark.processes
STEPS = 20 if WHOLE else 6
WARMUP = 512 if WHOLE else 64
"""Few steps go as far as the many of `make soak` where the rate rises sooner."""
SMALL: dict[str, list[str]] = {
    "autoencoder": [
        "model.width=32", "model.depth=1", "model.head_dim=16", "model.conv_channels=[8,16,16,16]",
    ],
    "diffusion": ["model.width=16"],
}  # fmt: skip
SIDE = 32 if WHOLE else 16
LEARNING_RATES = {"autoencoder": 0.01, "diffusion": 0.006}
SPOILS = ["swapped sample", "noise by rank"]
ENGINES = {
    "local": ["engine=local"],
    "zero0": ["engine=deepspeed", "engine.zero=0"],
    "zero1": ["engine=deepspeed", "engine.zero=1"],
    "zero2": ["engine=deepspeed", "engine.zero=2"],
    "zero3": ["engine=deepspeed", "engine.zero=3"],
    "double": ["engine=local", "engine.precision=fp64", "optimizer=adamw", "optimizer.lr=0.001"],
}
RUNS = [
    *(("autoencoder", engine, 8) for engine in ENGINES if engine != "zero3"),
    *(("diffusion", engine, 8) for engine in ENGINES),
    ("diffusion", "local", 6),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds")
    make(folder / "shapes", train=64, test=8, per_shard=16, frames=16, height=SIDE, width=SIDE)
    config = composed(folder, "first", "autoencoder", "local", 8, ["steps=2", "optimizer=adamw"])
    run.train(config, sinks=())
    return folder


def composed(
    place: Path, where: str, recipe: str, engine: str, batch: int, more: Iterable[str] = ()
) -> RunConfig:
    """The tiny config under SGD, saving after the first step, whose momentum is its gradient."""
    overrides = [
        f"run={place}/{where}",
        f"data.path={place}/shapes",
        f"batch={batch}",
        f"steps={STEPS}",
        "cluster=inline",
        "optimizer=sgd",
        f"optimizer.lr={LEARNING_RATES[recipe]}",
        "optimizer.clip=null",
        f"checkpoint.every={batch}",
        f"checkpoint.keep={STEPS}",
        "log.tensorboard=false",
        f"data.height={SIDE}",
        f"data.width={SIDE}",
        *([] if WHOLE else SMALL[recipe]),
        *ENGINES[engine],
        *more,
    ]
    if recipe == "diffusion":
        overrides += [f"first_stage={place}/first", f"optimizer.warmup={WARMUP}"]
    return compose.run_config(f"tiny/hvdm_{recipe}", overrides)


def named(place: Path, where: str, recipe: str, engine: str, batch: int) -> RunConfig:
    steps = ["steps=3"] if engine == "double" else []
    return composed(place, f"{where}-{recipe}-{engine}-{batch}", recipe, engine, batch, steps)


def spoiled(place: Path, spoil: str) -> RunConfig:
    return composed(place, f"spoiled-{spoil}".replace(" ", "-"), "diffusion", "local", 8)


@pytest.fixture(scope="module")
def straight(place: Path) -> Path:
    alone = [named(place, "inline", r, e, b) for r, e, b in RUNS if e in ("local", "double")]
    if WHOLE:
        for config in alone:
            run.train(config, sinks=())
    else:
        train_each_here({"runs": [(configs.plain(config), "") for config in alone]})
    return place


@pytest.fixture(scope="module", params=[2, 3])
def group(request: pytest.FixtureRequest, place: Path) -> tuple[int, Path]:
    """All runs in one worker group: starting it costs more than a run."""
    workers: int = request.param
    runs = [(named(place, f"workers{workers}", r, e, b), "") for r, e, b in RUNS]
    if workers == 2:
        runs += [(spoiled(place, spoil), spoil) for spoil in SPOILS]
    argument = {"runs": [(configs.plain(config), spoil) for config, spoil in runs]}
    if WHOLE:
        request.getfixturevalue("ray_session")
        where = ClusterConfig("local", workers=workers, cpus_per_worker=0.5, max_failures=0)
        groups.fit(train_each, argument, where, place / f"group-{workers}")
    else:
        ranks: Ranks = request.getfixturevalue({2: "two_ranks", 3: "three_ranks"}[workers])
        ranks.run(train_each_here, argument)
    return workers, place


@pytest.mark.parametrize("recipe, engine, batch", RUNS)
def test_same_run(
    recipe: str, engine: str, batch: int, group: tuple[int, Path], straight: Path
) -> None:
    workers, place = group
    base = "double" if engine == "double" else "local"
    a = f"{straight}/inline-{recipe}-{base}-{batch}"
    b = f"{place}/workers{workers}-{recipe}-{engine}-{batch}"
    (row,) = difference(a, b).values()
    assert row["travelled"] >= 0.01, row
    if engine == "double":
        assert row["relative"] <= 1e-9, row
        return
    assert row["of_travel"] <= 1e-5, row
    (first,) = difference(f"{a}@1", f"{b}@1", kind="momentum_buffer").values()
    assert first["relative"] <= 1e-6, first


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("group", [2], indirect=True)
def test_the_measure_finds_what_is_wrong(
    spoil: str, group: tuple[int, Path], straight: Path
) -> None:
    honest = f"{straight}/inline-diffusion-local-8"
    (row,) = difference(honest, spoiled(straight, spoil).run).values()
    assert row["of_travel"] > 1e-4, row
