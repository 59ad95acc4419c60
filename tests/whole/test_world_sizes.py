"""`cluster=inline engine=local` and every engine on 2 and 3 Ray workers are one trajectory."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from data_tools.synthetic.making import make
from hvdm import config as configs
from hvdm.config import ClusterConfig, RunConfig
from hvdm.run import run
from launcher import compose
from launcher.verbs.checkpoints import difference
from launcher.workers import group as groups
from tests.whole.spoiling import train_each

pytestmark = pytest.mark.ray

STEPS = 20
LEARNING_RATES = {"autoencoder": 0.01, "diffusion": 0.006}
ENGINES = {
    "local": ["engine=local"],
    "zero0": ["engine=deepspeed", "engine.zero=0"],
    "zero1": ["engine=deepspeed", "engine.zero=1"],
    "zero2": ["engine=deepspeed", "engine.zero=2"],
    "zero3": ["engine=deepspeed", "engine.zero=3"],
    "double": ["engine=local", "engine.precision=fp64", "optimizer=adamw"],
}
RUNS = [
    *((name, engine, 8) for name in ("autoencoder", "diffusion") for engine in ENGINES),
    ("diffusion", "local", 6),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds")
    make(folder / "shapes", train=64, test=8, per_shard=16, frames=16, height=32, width=32)
    config = composed(folder, "first", "autoencoder", "local", 8, ["steps=2", "optimizer=adamw"])
    run.train(config, sinks=())
    return folder


def composed(
    place: Path, where: str, recipe: str, engine: str, batch: int, more: Iterable[str] = ()
) -> RunConfig:
    """The tiny config as it ships, under SGD, saving after the first step and the last."""
    overrides = [
        f"run={place}/{where}",
        f"data.path={place}/shapes",
        f"batch={batch}",
        f"steps={STEPS}",
        "cluster=inline",
        "optimizer=sgd",
        f"optimizer.lr={LEARNING_RATES[recipe]}",
        "optimizer.clip=null",
        f"checkpoint.every={(STEPS - 1) * batch}",
        "log.tensorboard=false",
        *ENGINES[engine],
        *more,
    ]
    if recipe == "diffusion":
        overrides.append(f"first_stage={place}/first")
    return compose.run_config(f"tiny/hvdm_{recipe}", overrides)


def pair(place: Path, where: str, recipe: str, engine: str, batch: int) -> list[RunConfig]:
    """The run, and beside it its first step alone, whose momentum is its gradient."""
    name = f"{where}-{recipe}-{engine}-{batch}"
    whole = composed(place, name, recipe, engine, batch)
    if engine == "double":
        return [replace(whole, optimizer=replace(whole.optimizer, lr=1e-3))]
    return [whole, replace(whole, run=f"{whole.run}-first", steps=1)]


def on_workers(place: Path, workers: int, runs: list[RunConfig], spoil: str = "") -> None:
    """All of them in one worker group: starting it costs more than a run."""
    where = ClusterConfig("local", workers=workers, cpus_per_worker=0.5, max_failures=0)
    argument = {"configs": [configs.plain(config) for config in runs], "spoil": spoil}
    groups.fit(train_each, argument, where, place / f"group-{workers}")


@pytest.fixture(scope="module")
def straight(place: Path) -> Path:
    for recipe, engine, batch in RUNS:
        if engine in ("local", "double"):
            for config in pair(place, "inline", recipe, engine, batch):
                run.train(config, sinks=())
    return place


@pytest.fixture(scope="module", params=[2, 3])
def group(request: pytest.FixtureRequest, ray_session: None, place: Path) -> tuple[int, Path]:
    runs = [
        c
        for r, e, b in RUNS
        if not (r == "autoencoder" and e == "zero3")
        for c in pair(place, f"workers{request.param}", r, e, b)
    ]
    on_workers(place, request.param, runs)
    return request.param, place


@pytest.mark.parametrize("recipe, engine, batch", RUNS)
def test_same_run(
    recipe: str, engine: str, batch: int, group: tuple[int, Path], straight: Path
) -> None:
    if (recipe, engine) == ("autoencoder", "zero3"):
        pytest.skip("ZeRO-3 is for the diffusion, where the memory is")
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
    (first,) = difference(f"{a}-first", f"{b}-first", kind="momentum_buffer").values()
    assert first["relative"] <= 1e-6, first


@pytest.mark.parametrize("spoil", ["swapped sample", "noise by rank"])
def test_the_measure_finds_what_is_wrong(
    spoil: str, ray_session: None, straight: Path, place: Path
) -> None:
    config = composed(place, f"spoiled-{spoil}".replace(" ", "-"), "diffusion", "local", 8)
    on_workers(place, 2, [config], spoil)
    (row,) = difference(f"{straight}/inline-diffusion-local-8", config.run).values()
    assert row["of_travel"] > 1e-4, row
