"""Families of one module and one YAML each, as the seams of the training loop let them be."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode

from hvdm import building, opening
from hvdm.checkpoint import checkpoint
from hvdm.config import RunConfig
from hvdm.errors import UserError
from hvdm.recipe import Context
from hvdm.run import run
from launcher import compose
from launcher.cli import main
from launcher.sizing import footprint
from launcher.verbs.distance import difference
from tests.support.ranks import Ranks

FAMILIES = ("two_nets", "codebook", "pair", "adapter")
HERE = Path("tests/families")
SGD = ("optimizer=sgd", "optimizer.lr=0.05", "engine.precision=fp32")


def train(config: RunConfig) -> None:
    run.train(config, sinks=())


@pytest.fixture(scope="module")
def place(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained runs that others work on."""
    folder = tmp_path_factory.mktemp("families")
    (folder / "shapes").symlink_to(shapes)
    for seed in (1, 2):
        train(composed(folder, "two_nets", f"below{seed}", f"seed={seed}"))
    return folder


def composed(place: Path, family: str, name: str, *more: str) -> RunConfig:
    below = {
        "pair": [f"stages.teacher={place}/below1", f"stages.other={place}/below2"],
        "adapter": [f"first_stage={place}/below1"],
    }.get(family, [])
    typed = [f"run={place}/{name}", f"data.path={place}/shapes", *below, *more]
    return compose.run_config(f"{HERE}/{family}.yaml", typed)


def hashes(config: RunConfig) -> dict[str, dict[str, str]]:
    return checkpoint.hashes(checkpoint.choose(Path(config.run), None))


@pytest.mark.processes
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_on_1_2_and_3_workers_and_resumed_to_the_bit(
    family: str, place: Path, one_rank: Ranks, two_ranks: Ranks, three_ranks: Ranks
) -> None:
    runs = {n: composed(place, family, f"{family}-{n}") for n in (1, 2, 3)}
    for ranks, config in zip((one_rank, two_ranks, three_ranks), runs.values()):
        ranks.run(train, config)
    for other in (2, 3):
        for kind in ("master", *(["buffer"] if family == "codebook" else [])):
            for row in difference(runs[1].run, runs[other].run, kind=kind).values():
                assert row["relative"] <= 1e-9, (other, kind, row)
    halves = composed(place, family, f"{family}-halves", "steps=2")
    two_ranks.run(train, halves)
    two_ranks.run(train, replace(halves, steps=4))
    assert hashes(halves) == hashes(runs[2])


@pytest.mark.processes
def test_a_codebook_of_one_ranks_rows_is_found(
    place: Path, one_rank: Ranks, two_ranks: Ranks
) -> None:
    """The control. Honest runs have reset codes, or the equality above says nothing of it."""
    runs = [composed(place, "codebook", f"own{n}", "model.of_own_rows=true") for n in (1, 2)]
    for ranks, config in zip((one_rank, two_ranks), runs):
        ranks.run(train, replace(config, micro_batch=8))
    (row,) = difference(runs[0].run, runs[1].run, kind="buffer").values()
    assert row["relative"] > 1e-3
    honest = composed(place, "codebook", "honest")
    train(honest)
    assert opening.open_run(honest.run).nets["quantiser"].resets > 0  # type: ignore[operator]


@pytest.mark.processes
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_buffers_stay_exact_in_bf16(stage: int, place: Path, two_ranks: Ranks) -> None:
    config = composed(
        place, "codebook", f"bf16-{stage}", "engine=deepspeed", f"engine.zero={stage}",
        "engine.precision=bf16",
    )  # fmt: skip
    two_ranks.run(train, config)
    reader = checkpoint.Reader(checkpoint.choose(Path(config.run), None), "quantiser")
    assert reader.whole("buffer", "codes").dtype == torch.float32


@pytest.mark.processes
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_part_moves_with_every_engine(
    stage: int, place: Path, one_rank: Ranks, two_ranks: Ranks
) -> None:
    plain = composed(place, "adapter", "plain", *SGD)
    one_rank.run(train, plain)
    shared = composed(
        place, "adapter", f"zero{stage}", *SGD, "engine=deepspeed", f"engine.zero={stage}"
    )
    two_ranks.run(train, replace(shared, steps=2))
    two_ranks.run(train, shared)
    (row,) = difference(plain.run, shared.run).values()
    assert row["of_travel"] <= 1e-5 and row["travelled"] > 1e-3, row
    (net,) = checkpoint.choose(Path(shared.run), None).nets.values()
    assert set(net["parameters"]) == {"adapter.weight", "adapter.bias"}


def test_a_part_is_opened_exported_and_planned_with_its_rest(place: Path) -> None:
    config = composed(place, "adapter", "part")
    train(config)
    below = opening.open_run(place / "below1").nets["coder"]
    net = opening.open_run(config.run).nets["coder"]
    assert torch.equal(net.encode.weight, below.encode.weight)  # type: ignore[arg-type, union-attr]
    manifest = checkpoint.choose(Path(config.run), None).manifest
    assert manifest["stages"] == {"base": f"{place}/below1"}
    assert len(manifest["nets"]["coder"]["rest"]) == 64
    main(["checkpoint", "export", f"run={config.run}", "to=safetensors", f"out={place}/out"])
    assert "encode.weight" in load_file(place / "out/coder.safetensors")
    with FakeTensorMode():
        bytes_ = footprint.state(config, footprint.recipe_without_storage(config), 0)
    moving = sum(p.numel() for p in net.adapter.parameters())  # type: ignore[union-attr, operator]
    assert bytes_.moments == 2 * 8 * moving and bytes_.average == 8 * moving


def test_a_rest_that_changed_is_refused(place: Path) -> None:
    train(composed(place, "two_nets", "changing", "seed=5"))
    config = composed(place, "adapter", "on-it", f"first_stage={place}/changing")
    train(config)
    train(composed(place, "two_nets", "changing", "seed=5", "steps=6"))
    with pytest.raises(UserError, match="keeps still in coder came from .*changing with other"):
        opening.open_run(config.run)
    with pytest.raises(UserError, match="base_weights was"):
        train(replace(config, steps=6))


def test_masks_are_of_the_draw() -> None:
    mask = Context(0, (3, 4), "phase0").keep((1000,), 0.25, "a")
    again = Context(0, (4,), "phase0", step=9).keep((1000,), 0.25, "a")
    assert torch.equal(mask[1], again[0]) and set(mask.unique().tolist()) == {0.0, 4.0}
    assert 0.2 < float((mask > 0).float().mean()) < 0.3


BAD = [
    ("two_nets", ["optimizer.of.judg.lr=1"], "optimizer.of.judg: .* did you mean 'judge'"),
    ("two_nets", ["optimizer.of.judge.lrr=1"], "did you mean 'optimizer.of.judge.lr'"),
    ("two_nets", ["optimizer.decay=null"], "optimizer.schedule=cosine needs optimizer.decay"),
    ("two_nets", ["optimizer.floor=2"], "optimizer.floor=2.0: the share of lr"),
    ("two_nets", ["first_stage=x"], "has none: leave it out"),
    ("pair", ["stages.others=x"], "stages.others: .*did you mean 'other'"),
    ("pair", ["first_stage=x"], "is for a recipe of one stage, and .* has teacher, other"),
    ("pair", ["stages.other=none"], "stages.other=.*none is not trained yet"),
    ("adapter", ["first_stage=null"], "first_stage is not set"),
]


@pytest.mark.parametrize("family, typed, said", BAD)
def test_one_line_says_what_is_wrong(family: str, typed: list[str], said: str, place: Path) -> None:
    with pytest.raises(UserError, match=said):
        config = composed(place, family, "bad", *typed)
        building.build_recipe(config, opening.stages_of(config))


def test_a_stage_that_is_missing(place: Path) -> None:
    with pytest.raises(UserError, match=r"stages.teacher is not set: .* with stages.teacher=RUN"):
        building.build_recipe(composed(place, "pair", "bad"))


def test_a_family_that_declares_too_little(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.families import two_nets

    monkeypatch.delattr(two_nets.TwoNets, "averaged")
    with pytest.raises(UserError, match=r"two_nets declares no `averaged`: see 'The recipe' in"):
        building.build_recipe(composed(place, "two_nets", "bad"))
    monkeypatch.delattr(two_nets, "Config")
    with pytest.raises(UserError, match=r"two_nets declares no `Config`: see 'The module' in"):
        building.build_recipe(composed(place, "two_nets", "bad"))
