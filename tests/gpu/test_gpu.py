"""What holds on a CPU holds on a GPU, and between the two."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hvdm import opening
from hvdm.config import ClusterConfig, EngineConfig, RunConfig
from hvdm.events import read_lines
from hvdm.nets.attention import attention, backend
from hvdm.recipe import Noise, SampleRequest
from launcher.verbs.distance import difference
from tests.nets.test_attention import inputs, plain
from tests.run.test_resume import last_hashes, train
from tests.support.toys import ADAMW, run_config
from tests.train.test_engines import engine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")

CPU, GPU = ClusterConfig("inline"), ClusterConfig("inline", gpus_per_worker=1)
RECIPES = ("hvdm.autoencoder", "hvdm.diffusion")


@pytest.fixture(scope="module")
def stage(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu") / "stage"
    train(run_config(folder, shapes, "hvdm.autoencoder", steps=1))
    return folder


def of(recipe: str, run: Path, shapes: Path, stage: Path, **changes: Any) -> RunConfig:
    below = str(stage) if recipe == "hvdm.diffusion" else None
    changes = {"optimizer": ADAMW, "cluster": GPU, "steps": 6, "first_stage": below, **changes}
    return run_config(run, shapes, recipe, **changes)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_gpu_and_a_cpu_train_alike(
    recipe: str, shapes: Path, stage: Path, tmp_path: Path
) -> None:
    """In float64, where what is left is the mathematics."""
    exact = EngineConfig("local", precision="fp64")
    for name, where in (("cpu", CPU), ("gpu", GPU)):
        train(of(recipe, tmp_path / name, shapes, stage, engine=exact, cluster=where))
    for net, row in difference(f"{tmp_path}/cpu", f"{tmp_path}/gpu").items():
        assert row["travelled"] > 1e-3, (net, row)
        assert row["of_travel"] <= 1e-9, (net, row)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("recipe", RECIPES)
def test_resumed_is_straight_to_the_bit(
    recipe: str, zero: int | None, precision: str, shapes: Path, stage: Path, tmp_path: Path
) -> None:
    config = of(recipe, tmp_path / "straight", shapes, stage, engine=engine(zero, precision))
    train(config)
    broken = replace(config, run=str(tmp_path / "broken"))
    train(replace(broken, steps=3))
    train(broken)
    resumed = [e for e in read_lines(tmp_path / "broken/events.jsonl") if e["event"] == "resumed"]
    assert [e["step"] for e in resumed] == [3]
    assert last_hashes(tmp_path / "straight") == last_hashes(tmp_path / "broken")


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_every_engine_trains_alike(zero: int, shapes: Path, stage: Path, tmp_path: Path) -> None:
    for name, how in (("local", engine(None)), ("zero", engine(zero))):
        train(of("hvdm.diffusion", tmp_path / name, shapes, stage, engine=how))
    for net, row in difference(f"{tmp_path}/local", f"{tmp_path}/zero").items():
        assert row["of_travel"] <= 1e-5, (net, row)


def test_what_a_gpu_saved_a_cpu_goes_on_with(shapes: Path, stage: Path, tmp_path: Path) -> None:
    exact = EngineConfig("local", precision="fp64")
    moved = of("hvdm.diffusion", tmp_path / "moved", shapes, stage, engine=exact, steps=3)
    train(moved)
    train(replace(moved, cluster=CPU, steps=6))
    train(replace(moved, cluster=CPU, steps=6, run=str(tmp_path / "stayed")))
    for net, row in difference(f"{tmp_path}/stayed", f"{tmp_path}/moved").items():
        assert row["travelled"] > 1e-3, (net, row)
        assert row["of_travel"] <= 1e-9, (net, row)


def test_a_seed_is_one_clip_on_both_and_in_any_batch(
    shapes: Path, stage: Path, tmp_path: Path
) -> None:
    train(of("hvdm.diffusion", tmp_path / "run", shapes, stage))
    clips = {}
    for name, device, draws in (
        ("cpu", "cpu", (3, 4)),
        ("gpu", "cuda", (3, 4)),
        ("alone", "cuda", (3,)),
    ):
        opened = opening.open_run(tmp_path / "run", device=device)
        with torch.no_grad():
            noise = Noise(0, draws, device=device)
            clips[name] = opened.recipe.sample(opened.nets, SampleRequest(), noise).cpu()
    assert float((clips["cpu"][0] - clips["cpu"][1]).abs().max()) > 0.1
    torch.testing.assert_close(clips["gpu"], clips["cpu"], atol=1e-3, rtol=0)
    torch.testing.assert_close(clips["alone"], clips["gpu"][:1], atol=1e-3, rtol=0)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dim", [32, 64, 128])
def test_xformers_is_as_exact_as_bf16_allows(dim: int, deterministic: bool) -> None:
    """Against float64: no more than twice the error of softmax written out in bf16."""
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    try:
        assert backend(torch.device("cuda"), torch.bfloat16, dim).startswith("xformers")
        errors = {name: _errors(how, dim) for name, how in (("ours", attention), ("plain", plain))}
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
    for ours, wanted in zip(errors["ours"], errors["plain"], strict=True):
        assert ours <= 2 * wanted, errors


def _errors(how: Any, dim: int) -> list[float]:
    """Of the output and of the three gradients."""
    sizes: dict[str, Any] = {"queries": 256, "keys": 320, "dim": dim}
    exact = inputs("cuda", torch.bfloat16, **sizes)
    exact = [x.detach().double().requires_grad_() for x in exact]
    given = inputs("cuda", torch.bfloat16, **sizes)
    out, wanted = how(*given), plain(*exact)
    weight = torch.cos(torch.arange(wanted.numel(), device="cuda").view_as(wanted))
    found = [out, *torch.autograd.grad((out * weight.to(out.dtype)).sum(), given)]
    right = [wanted, *torch.autograd.grad((wanted * weight).sum(), exact)]
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, right, strict=True)]
