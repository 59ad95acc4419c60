"""WaveDiff's and DDGAN's configs beside what is published of them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hvdm.ops import fir
from hvdm.recipe import Batch, Context
from hvdm.recipes.wavediff import discriminator, layers, released
from hvdm.recipes.wavediff.generator import Generator, GeneratorShape
from launcher import compose
from launcher.sizing.models import on_meta, parameters
from tests.recipes.test_wavediff_networks import listed


@dataclass(frozen=True)
class Published:
    """Millions of parameters and billions of multiply-adds, of the generator and of the critic;
    steps of training in thousands; both rates; the penalty and how often it is due."""

    generator: tuple[float, float]
    critic: tuple[float, float] | None
    steps: float
    rates: tuple[float, float]
    penalty: tuple[float, int]


PUBLISHED = {
    "wavediff/cifar10": Published(
        (33.370, 1.671), (7.631, 0.351), 351, (1.6e-4, 1.25e-4), (0.02, 15)
    ),
    "wavediff/stl10": Published(
        (55.585, 7.135), (12.744, 1.485), 351, (1.6e-4, 1.25e-4), (0.02, 15)
    ),
    "wavediff/celeba_256": Published((31.485, 28.421), (22.626, 19.07), 210, (2e-4, 1e-4), (2, 10)),
    "wavediff/celeba_512": Published((44.853, 73.954), (27.740, 76.4), 375, (2e-4, 1e-4), (2, 10)),
    "wavediff/celeba_1024": Published(
        (44.186, 77.729), (27.740, 305.5), 375, (2e-4, 1e-4), (2, 10)
    ),
    "wavediff/lsun": Published((31.485, 28.421), (22.626, 19.07), 937, (1.6e-4, 1e-4), (1, 10)),
    "ddgan/cifar10": Published((48.433, 7.052), None, 351, (1.6e-4, 1.25e-4), (0.02, 15)),
    "ddgan/celeba_256": Published((39.727, 70.859), None, 675, (2e-4, 1e-4), (2, 10)),
    "ddgan/lsun": Published((39.727, 70.859), None, 937, (1.6e-4, 1e-4), (1, 10)),
}


def counted(recipe: Any, net: str, filters: list[int]) -> float:
    """Multiply-adds of one row, those of the public code's filters with them.

    It has a filter as a convolution of 4x4 of the larger plane, here it is a few additions.
    """
    rows = recipe.group
    y = torch.zeros(rows, *recipe.bands.shape)
    t, z = torch.zeros(rows, dtype=torch.long), torch.zeros(rows, recipe.config.drawn)
    filters.clear()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        recipe.trained[net](y, t, z) if net == "generator" else recipe.trained[net](y, y, t)
    return (counter.get_total_flops() / 2 + 16 * sum(filters)) / rows / 1e9


def watched(filtered: Callable[[Tensor, Any], Tensor], sizes: list[int]) -> Any:
    """A filter that notes the larger of what it is given and what it gives."""

    def noted(x: Tensor, axes: Any) -> Tensor:
        out = filtered(x, axes)
        sizes.append(max(x.numel(), out.numel()) if axes else 0)
        return out

    return noted


@pytest.mark.parametrize("name", [name for name in PUBLISHED if not name.endswith("lsun")])
def test_configs_have_the_published_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    filters: list[int] = []
    monkeypatch.setattr(layers, "halved", watched(fir.halved, filters))
    monkeypatch.setattr(layers, "doubled", watched(fir.doubled, filters))
    monkeypatch.setattr(discriminator, "halved", watched(fir.halved, filters))
    published, recipe = PUBLISHED[name], on_meta(compose.run_config(name))
    for net in ("generator", "critic"):
        if (expected := getattr(published, net)) is not None:
            assert round(parameters(recipe.trained[net]) / 1e6, 3) == expected[0]
            with torch.device("meta"):
                assert counted(recipe, net, filters) == pytest.approx(expected[1], rel=0.005)


@pytest.mark.parametrize("name", PUBLISHED)
def test_configs_have_the_published_settings(name: str) -> None:
    published, config = PUBLISHED[name], compose.run_config(name)
    assert config.samples is not None
    assert config.samples / config.batch / 1e3 == pytest.approx(published.steps, rel=0.01)
    optimizers = [config.optimizer.of_net(net) for net in ("generator", "critic")]
    assert tuple(optimizer.lr for optimizer in optimizers) == published.rates
    for optimizer in optimizers:
        assert optimizer.betas == (0.5, 0.9) and not optimizer.weight_decay
        assert optimizer.schedule == "cosine" and optimizer.floor is not None
        assert optimizer.lr * optimizer.floor == pytest.approx(1e-5, rel=1e-3)
    assert (config.model["gradient_penalty"], config.model["penalty_every"]) == published.penalty
    assert config.data.flip == 0.5 and config.engine.precision == "fp32"


def test_the_critic_sees_the_cleaner_half_of_a_pair_first() -> None:
    with torch.device("meta"):
        recipe: Any = on_meta(compose.run_config("wavediff/celeba_256"))
    critic = recipe.trained["critic"]
    assert critic.stem.in_channels == 24
    seen: list[tuple[torch.Tensor, ...]] = []
    critic.register_forward_pre_hook(lambda net, given: seen.append(given))
    video = torch.zeros(4, 1, 256, 256, 3, dtype=torch.uint8, device="meta")
    batch = Batch({"video": video}, ("",) * 4, (0,) * 4, torch.ones(4))
    with torch.device("meta"), torch.no_grad():
        recipe.critic_loss(batch, Context(0, (0, 1, 2, 3), "phase0", "meta"))
    assert [tuple(given[0].shape) for given in seen] == [(4, 12, 128, 128)] * 2
    assert seen[0][1] is seen[1][1] and seen[0][0] is not seen[1][0]


@pytest.mark.parametrize("size", released.SIZES)
def test_an_imported_size_has_the_published_names(size: str) -> None:
    name, own = released.config("wavediff", "generator", size)
    recipe = on_meta(compose.run_config(name, own))
    table = "celeba_256" if size == "lsun" else size  # the same network in more steps
    assert list(recipe.trained) == ["generator"]
    assert released.shapes(recipe.trained["generator"]) == listed(table)
    assert released.problem("wavediff", recipe.trained["generator"]) is None


@pytest.mark.parametrize(
    "changes, said",
    [
        ({}, "is of model.variant=figure, .*train it with model.variant=released"),
        ({"released": True, "labels": 3}, "is told classes, which the released code has no names"),
        ({"frames": 4}, "makes clips"),
    ],
)
def test_what_has_no_public_names_says_why(changes: dict[str, Any], said: str) -> None:
    with torch.device("meta"):
        net = Generator(GeneratorShape(12, 16, 8, (1, 2), **changes))
    assert re.search(said, released.problem("wavediff", net) or "")
    with torch.device("meta"):
        plain = Generator(GeneratorShape(12, 16, 8, (1, 2), bottleneck=False))
    assert released.problem("wavediff", plain) is None
    assert released.problem("wavediff", torch.nn.Linear(1, 1)) == "is of another family"
