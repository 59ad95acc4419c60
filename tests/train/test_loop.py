"""What the loop promises whatever the family: sums, skips, noise, gradients."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as torch_dist
from torch import nn

from hvdm import dist
from hvdm.checkpoint import checkpoint
from hvdm.config import EngineConfig, RunConfig
from hvdm.errors import RunError, UserError
from hvdm.events import read_lines
from hvdm.recipe import Batch, Context, Noise
from hvdm.run import run
from hvdm.train.engine import LocalEngine
from hvdm.train.loop import Tally, only_trains
from tests.support.ranks import Ranks
from tests.support.toys import SGD, run_config
from tests.train.test_engines import EACH, engine

FLOW = "tests.sixth.toy_flow"


def train(config: RunConfig) -> None:
    run.train(config, sinks=())


def flow(folder: Path, data: Path, **model: Any) -> RunConfig:
    return run_config(folder, data, FLOW, model=model)


def weights(folder: Path, step: int) -> dict[str, dict[str, str]]:
    return checkpoint.hashes(checkpoint.choose(folder, step))


@pytest.mark.processes
@pytest.mark.parametrize("stage", [None, 0, 1, 2, 3])
def test_a_sample_that_is_not_finite_skips_the_step_on_all_ranks(
    stage: int | None, two_ranks: Ranks, shapes: Path, tmp_path: Path
) -> None:
    """Draw 7 is in step 1: it leaves weights, moments and average as step 0 left them."""
    config = replace(flow(tmp_path / "run", shapes, spoiled=(7,)), engine=engine(stage))
    two_ranks.run(train, replace(config, checkpoint=EACH))
    found = {step: weights(tmp_path / "run", step) for step in (1, 2, 3)}
    assert found[1] == found[2] and found[2] != found[3]
    (event,) = [e for e in read_lines(tmp_path / "run/events.jsonl") if e["event"] == "skipped"]
    assert event["step"] == 1 and event["net"] == "velocity"
    (key,) = event["samples"]
    assert key.startswith("shard-0000") and "/train-" in key


@pytest.mark.processes
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_skip_is_the_same_run_with_every_engine(
    stage: int, one_rank: Ranks, two_ranks: Ranks, shapes: Path, tmp_path: Path
) -> None:
    from launcher.verbs.distance import difference

    config = replace(flow(tmp_path / "a", shapes, spoiled=(7,)), steps=4)
    one_rank.run(train, config)
    two_ranks.run(train, replace(config, run=str(tmp_path / "b"), engine=engine(stage)))
    (row,) = difference(f"{tmp_path}/a", f"{tmp_path}/b").values()
    assert row["of_travel"] <= 1e-5 and row["travelled"] > 1e-3


def test_a_gradient_that_is_not_finite_skips_too(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss may be fine and its gradient not: sqrt at zero."""
    import tests.sixth.toy_flow as family

    honest = family.Flow.loss

    def steep(self: Any, batch: Batch, context: Context) -> Any:
        loss, logs = honest(self, batch, context)
        return loss + torch.sqrt(loss * 0), logs

    monkeypatch.setattr(family.Flow, "loss", steep)
    run.train(flow(tmp_path / "run", shapes), sinks=())
    events = [e for e in read_lines(tmp_path / "run/events.jsonl") if e["event"] == "skipped"]
    assert [e["reason"] for e in events] == ["gradient norm nan"] * 3


def test_a_run_without_a_good_step_is_stopped(shapes: Path, tmp_path: Path) -> None:
    config = replace(
        flow(tmp_path / "run", shapes, spoiled=tuple(range(100))), steps=20, skips_allowed=2
    )
    with pytest.raises(RunError, match="step 2: 3 steps in a row were not finite"):
        run.train(config, sinks=())


@pytest.mark.processes
def test_noise_by_rank_is_found_by_the_equality_of_world_sizes(
    one_rank: Ranks, two_ranks: Ranks, shapes: Path, tmp_path: Path
) -> None:
    """The control for every equality above: the wrong way to draw noise does not pass."""
    from launcher.verbs.distance import difference

    for wrong in (False, True):
        config = flow(tmp_path / f"a{wrong}", shapes, noise_by_rank=wrong)
        one_rank.run(train, config)
        two_ranks.run(train, replace(config, run=str(tmp_path / f"b{wrong}")))
        (row,) = difference(f"{tmp_path}/a{wrong}", f"{tmp_path}/b{wrong}").values()
        assert (row["of_travel"] > 1e-2) if wrong else (row["of_travel"] <= 1e-5)


def test_only_the_network_of_the_phase_requires_gradients() -> None:
    nets = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    engines = {
        name: LocalEngine(net, EngineConfig("local"), SGD, ("weight",) if name == "b" else None)
        for name, net in nets.items()
    }
    with only_trains(engines, "b"):
        wanted = {name: p.requires_grad for name, p in nets.named_parameters()}
    assert wanted == {"a.weight": False, "a.bias": False, "b.weight": True, "b.bias": False}


def test_padding_rows_count_for_nothing() -> None:
    weight = torch.tensor([1.0, 1.0, 0.0])
    batch = Batch({}, ("a", "b", "b"), (0, 1, 1), weight)
    tally = Tally()
    tally.add(batch, torch.tensor([1.0, 2.0, float("nan")]), {"x": torch.tensor([1.0, 1.0, 5.0])})
    means, bad = tally.over_ranks(2)
    assert not bad and tally.bad_keys == [] and means["x"] == 1.0


def test_a_loss_has_to_be_per_sample() -> None:
    batch = Batch({}, ("a", "b"), (0, 1), torch.ones(2))
    with pytest.raises(RunError, match="one value per sample"):
        Tally().add(batch, torch.tensor(1.0), {})


def test_noise_is_of_the_draw_and_of_its_use() -> None:
    noise = Noise(0, (3, 4, 5))
    again = Noise(0, (5, 3))
    x, y = noise.randn((4,), "a"), again.randn((4,), "a")
    assert torch.equal(x[2], y[0]) and torch.equal(x[0], y[1])
    assert not torch.equal(x[0], noise.randn((4,), "b")[0])
    assert not torch.equal(x[0], Noise(1, (3,)).randn((4,), "a")[0])
    assert not torch.equal(x[0], Context(0, (3,), "phase0").randn((4,), "a")[0])


def test_zero_3_with_two_networks_is_refused_with_the_reason(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="engine.zero=3 does not work.*use engine.zero=2"):
        from hvdm import building

        building.build_recipe(run_config(tmp_path, shapes, engine=engine(3)))


def test_the_golden_curves(shapes: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Ten steps of each recipe. A change here is a change of the mathematics: say why."""
    path = Path(__file__).parents[1] / "golden" / "curves.json"
    golden = json.loads(path.read_text()) if path.exists() else {}
    found = {}
    recipes = ("hvdm.autoencoder", "hvdm.diffusion", "wavediff.diffusion")
    for name in (*recipes, FLOW, "tests.support.toys"):
        found[name] = curve(name, shapes, tmp_path)
    if request.config.getoption("--golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
        golden = found
    assert golden.keys() == found.keys()
    for name, losses in found.items():
        assert losses == pytest.approx(golden[name], rel=1e-4), name


def curve(name: str, shapes: Path, tmp_path: Path) -> list[float]:
    config = run_config(tmp_path / name, shapes, name, steps=10)
    if name == "hvdm.diffusion":
        config = replace(config, first_stage=str(tmp_path / "hvdm.autoencoder"))
    if name == "wavediff.diffusion":
        config = replace(config, batch=8, micro_batch=4)
    run.train(config, sinks=())
    rows = read_lines(tmp_path / name / "metrics.jsonl")
    return [next(v for k, v in row.items() if k.endswith("/loss")) for row in rows]


def goes_on_alone() -> str:
    """What a rank sees whose group is destroyed by another thread."""
    with dist.kept_together():
        group, torch_dist.group.WORLD = torch_dist.group.WORLD, None
        try:
            dist.all_sum(torch.ones(1))
        except ConnectionError as error:
            return str(error)
        finally:
            torch_dist.group.WORLD = group
    return "went on"


def test_a_rank_without_its_group_does_not_go_on_alone(two_ranks: Ranks) -> None:
    for told in two_ranks.run(goes_on_alone):
        assert "taken down" in told
