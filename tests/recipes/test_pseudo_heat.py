"""The hierarchical VAE that cools images down."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.fft import dctn, idctn

from hvdm.errors import UserError
from hvdm.recipe import Batch, Clip, Context, Given, Noise
from hvdm.recipes.pseudo_video import heat
from hvdm.recipes.pseudo_video.heat import Config, Cooling, blur_levels, kept
from hvdm.sampling import ask

SMALL = Config(width=8, multipliers=(1, 2), attention=(), blocks=1, heads=2, frames=4, warmup=4)
CLIP = Clip(1, 16, 16)


def rows(count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(256, (count, 1, 16, 16, 3), generator=generator, dtype=torch.uint8)
    return Batch({"video": video}, ("row",) * count, tuple(range(count)), torch.ones(count))


def built(config: Config = SMALL) -> Any:
    torch.manual_seed(0)
    known = heat.from_data(config, CLIP, lambda draws: rows(len(draws)))
    recipe = heat.build(config, Given(CLIP, from_data=known))
    for parameter in recipe.trained.parameters():  # its zero layers would say nothing
        torch.nn.init.normal_(parameter, std=0.05)
    return recipe


def context(step: int = 2, count: int = 6) -> Context:
    return Context(0, tuple(range(count)), "phase0", step=step)


def test_levels_are_the_papers() -> None:
    levels = blur_levels(Config())
    assert len(levels) == 19 and levels[0] == 0
    assert levels[1:5] == pytest.approx([0.5, 0.62, 0.77, 0.96], abs=5e-3)
    assert levels[-3:] == pytest.approx([13.0, 16.1, 20.0], abs=5e-2)


def test_a_level_is_the_heat_equation_in_frequencies() -> None:
    images = torch.rand(2, 16, 16, dtype=torch.float64)
    config = replace(SMALL, widths=(0.5, 8.0))
    found = Cooling(config, 16).blurred(images, torch.tensor([0, 4]))
    assert torch.allclose(found[0], images[0])
    i = torch.arange(16, dtype=torch.float64)
    share = torch.exp(-(torch.pi**2) * (i[:, None] ** 2 + i**2) / 16**2 * 8.0**2 / 2)
    wanted = idctn(dctn(images[1].numpy(), norm="ortho") * share.numpy(), norm="ortho")
    assert torch.allclose(found[1], torch.from_numpy(wanted))


def test_what_is_kept_of_images_gives_their_last_frame() -> None:
    recipe = built()
    images = heat.grey(rows(), SMALL)
    last = recipe.cooling.blurred(images, torch.full((6,), 4))
    assert kept(SMALL, 16) < 16
    side = kept(SMALL, 16)
    low = torch.tensor(recipe.low)[:6].unflatten(1, (side, side))
    assert torch.allclose(recipe.cooling.of_low(low), last, atol=2e-3)


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, encoder="learned")])
def test_losses_are_the_rows_own_and_reach_all_weights(config: Config) -> None:
    recipe = built(config)
    loss, _ = recipe.phases[0].loss(rows(), context())
    batch = rows()
    one = Batch({"video": batch["video"][4:5]}, ("row",), (4,), torch.ones(1))
    alone, _ = recipe.phases[0].loss(one, Context(0, (4,), "phase0", step=2))
    assert torch.allclose(loss[4:5], alone, rtol=1e-4)
    loss.sum().backward()
    assert all(p.grad is not None for p in recipe.trained.parameters())


def test_the_last_step_is_trained_too() -> None:
    recipe, seen = built(), set()
    recipe.net.decoder.register_forward_pre_hook(lambda _, given: seen.update(given[1].tolist()))
    recipe.fixed_loss(rows(60), context(count=60))
    assert seen == {1, 2, 3, 4}


def test_the_bound_is_paid_in_full_after_the_warmup() -> None:
    recipe = built(replace(SMALL, encoder="learned"))
    for step, share in ((0, 0.0), (2, 0.5), (9, 1.0)):
        loss, logs = recipe.learned_loss(rows(), context(step))
        wanted = logs["first"] + share * (logs["bound"] - logs["first"])
        assert torch.allclose(loss, wanted, rtol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"prior": "gaussian"}, {"encoder": "learned"}], ids=str)
def test_samples_are_by_their_number(changes: Any) -> None:
    recipe = built(replace(SMALL, **changes))
    both = recipe.sample(recipe.trained, ask(recipe), Noise(0, (0, 1)))
    one = recipe.sample(recipe.trained, ask(recipe), Noise(0, (1,)))
    assert both.shape == (2, 3, 16, 16) and torch.allclose(one[0], both[1], atol=1e-5)
    film = recipe.sample(recipe.trained, ask(recipe, "frames"), Noise(0, (0, 1)))
    assert film.shape == (2, 3, 5, 16, 16) and torch.equal(film[:, :, -1], both)


def test_what_cannot_be_built() -> None:
    with pytest.raises(UserError, match="widths that grow"):
        built(replace(SMALL, widths=(2.0, 1.0)))
    with pytest.raises(UserError, match="model.step_spread=0: expected"):
        built(replace(SMALL, step_spread=0.0, encoder="learned"))
    with pytest.raises(UserError, match="model.blocks=0 is below 1"):
        built(replace(SMALL, blocks=0))
    with pytest.raises(UserError, match="need a multiple of 32"):
        built(replace(SMALL, multipliers=(1, 1, 1, 1, 1, 1)))
