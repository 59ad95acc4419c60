"""WildFusion's second stage: guidance, inversion, resampling, interpolation."""

from typing import Any

import pytest
import torch

from hvdm.errors import UserError
from hvdm.ops.sampler import ddim, inverse_ddim, timesteps
from hvdm.ops.schedule import alpha_bars, sqrt_linear_betas
from hvdm.recipe import Batch, Given, Noise
from hvdm.recipes.wildfusion import diffusion
from hvdm.recipes.wildfusion.diffusion import Config, Drawing, slerp
from hvdm.sampling import ask
from tests.recipes.wild import CLIP, SIDE, built, context, rows

TINY: dict[str, Any] = {
    "width": 16, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "heads": 2, "labels": 3,
    "sampling_steps": 5,
}  # fmt: skip


def diffusing(**changes: Any) -> Any:
    torch.manual_seed(0)
    below = built()
    recipe = diffusion.build(Config(**{**TINY, **changes}), Given(CLIP, {"first_stage": below}))
    torch.manual_seed(1)
    for parameter in recipe.trained.parameters():  # zero layers answer alike whatever they are told
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return recipe


def drawing(recipe: Any, what: str = "sample", draws: tuple[int, ...] = (0, 1), **more: Any) -> Any:
    request = ask(recipe, what, None, more)
    return Drawing(recipe, recipe.trained, request.options, Noise(0, draws), request)


def of_picture() -> dict[str, Any]:
    batch = rows(1)
    return {"image": batch["video"][0, 0], "depth": batch["depth"][0], "rule": "none"}


@pytest.mark.parametrize("predicts", ["eps", "v"])
def test_the_loss_is_of_each_row_alone(predicts: str) -> None:
    recipe, together = diffusing(predicts=predicts), rows(2)
    loss, _ = recipe.loss(together, context())
    first = {name: value[:1] for name, value in together.fields.items()}
    alone, _ = recipe.loss(Batch(first, ("row",), (0,), torch.ones(1)), context(count=1))
    assert loss.shape == (2,) and torch.allclose(alone[0], loss[0], rtol=1e-5)
    assert not any(p.requires_grad for p in recipe.frozen.parameters())


def test_guidance_of_one_is_the_told_answer_and_another_is_not() -> None:
    recipe = diffusing()
    x, t = torch.randn(2, *recipe.latent_shape), torch.tensor([500, 500])
    with torch.no_grad():
        told = recipe.trained["denoiser"](x, t, torch.tensor([0, 1]))
        untold = recipe.trained["denoiser"](x, t, torch.tensor([-1, -1]))
        one, three = (drawing(recipe, label=(0, 1), guidance=g).eps()(x, t) for g in (1.0, 3.0))
    assert torch.equal(one, told) and not torch.allclose(told, untold, atol=1e-4)
    assert torch.allclose(three, untold + 3 * (told - untold), atol=1e-5)


def test_a_label_is_left_out_now_and_then() -> None:
    recipe, batch = diffusing(untold=0.5), rows(2)
    many = Batch(
        {"label": torch.zeros(200, dtype=torch.int64)}, (), tuple(range(200)), batch.weight
    )
    told = recipe._told(many, context(count=200))
    assert set(told.tolist()) == {-1, 0} and 60 < int((told < 0).sum()) < 140


def test_noise_that_was_found_leads_back() -> None:
    bars = alpha_bars(sqrt_linear_betas()).float()
    clean = torch.randn(2, 3, 4, 4, dtype=torch.float64)

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Of data of variance 0.36."""
        own = bars.double()[t].reshape(-1, 1, 1, 1)
        return x * (1 - own).sqrt() / (0.36 * own + 1 - own)

    noise = inverse_ddim(denoise, clean, bars.double(), 20)
    again = ddim(denoise, noise, bars.double(), 20, 0.0, lambda k: clean, float("inf"))
    once = inverse_ddim(denoise, clean, bars.double(), 20, passes=1)
    rough = ddim(denoise, once, bars.double(), 20, 0.0, lambda k: clean, float("inf"))
    assert float((again - clean).abs().max()) < 0.05 * float((rough - clean).abs().max())
    assert float((again - clean).abs().mean()) < 0.01 * float(clean.abs().mean())


def test_resampling_nothing_is_the_reconstruction_to_the_bit() -> None:
    recipe = diffusing()
    request = ask(recipe, "resample", None, {**of_picture(), "levels": 3})
    made = recipe.sample(recipe.trained, request, Noise(0, (0, 1)))
    assert made.shape == (2, 3, SIDE, 3 * 2 * SIDE)
    levels = made.split(2 * SIDE, -1)
    latent = recipe.to_latent(rows(1)).expand(2, -1, -1, -1)
    look = recipe.net.look(recipe.planes(latent))
    assert torch.equal(levels[0][..., :SIDE], look.image.clamp(-1, 1))
    assert not torch.equal(levels[1], levels[0]) and not torch.equal(levels[2], levels[1])


def test_the_last_level_begins_where_a_sample_does() -> None:
    """At the first of the trained steps, which leaves next to nothing of a picture."""
    recipe = diffusing()
    assert timesteps(5)[0] == 999 and float(recipe.alpha_bar[999]) < 0.006
    asked, begun = drawing(recipe, "resample", **of_picture()), []
    recipe.trained["denoiser"].register_forward_pre_hook(lambda net, given: begun.append(given[0]))
    asked._anew(torch.zeros(2, *recipe.latent_shape), 5)
    start = asked.noise.randn(recipe.latent_shape, "start")
    assert torch.allclose(begun[0], start, rtol=0.01) and len(begun) == 5


def test_between_noises_the_length_stays_and_ends_are_the_ends() -> None:
    a, b = (torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    assert torch.allclose(slerp(a, b, 0.0), a, atol=1e-5)
    assert torch.allclose(slerp(a, b, 1.0), b, atol=1e-5)
    half = slerp(a, b, 0.5).flatten(1).norm(dim=1)
    mean = (a.flatten(1).norm(dim=1) + b.flatten(1).norm(dim=1)) / 2
    assert torch.allclose(half, mean, rtol=0.02)
    assert torch.allclose(slerp(a, a, 0.3), a, atol=1e-6)


def test_what_is_asked_for_comes_by_draw() -> None:
    recipe = diffusing()

    def sampled(what: str, draws: tuple[int, ...], **more: Any) -> Any:
        return recipe.sample(recipe.trained, ask(recipe, what, None, more), Noise(0, draws))

    both, second = sampled("image", (0, 1)), sampled("image", (1,))
    assert both.shape == (2, 3, SIDE, SIDE) and torch.allclose(both[1], second[0], atol=1e-5)
    assert not torch.allclose(sampled("novel", (0, 1)), both, atol=1e-3)
    assert sampled("sample", (0,), frames=3).shape == (1, 3, 3, SIDE, 2 * SIDE)
    assert sampled("depth", (0, 1)).shape == (2, 8, 8)
    picture = of_picture()
    between = {"from": picture["image"], "from_depth": picture["depth"], "to": picture["image"],
               "to_depth": picture["depth"].flip(0), "rule": "none", "frames": 3}  # fmt: skip
    assert sampled("interpolate", (0,), **between).shape == (1, 3, 3, SIDE, 2 * SIDE)


@pytest.mark.parametrize(
    "what, more, words",
    [
        ("sample", {"label": (3,)}, "label=3: this run knows labels 0 to 2"),
        ("resample", {}, "image= is missing: give the picture"),
        ("interpolate", {}, "from= is missing: give the picture"),
        ("resample", {"image": torch.zeros(SIDE, SIDE, 3, dtype=torch.uint8)}, "depth= is missing"),
    ],
)
def test_one_line_says_what_is_missing(what: str, more: dict[str, Any], words: str) -> None:
    recipe = diffusing()
    with pytest.raises(UserError, match=words):
        recipe.sample(recipe.trained, ask(recipe, what, None, more), Noise(0, (0,)))


@pytest.mark.parametrize("key", ["yaw", "pitch", "eta"])
def test_on_the_way_between_pictures_nothing_is_asked_that_is_not_read(key: str) -> None:
    with pytest.raises(UserError, match=f"unknown key '{key}' for what=interpolate"):
        ask(diffusing(), "interpolate", None, {key: 1.0})


def test_levels_and_first_stages_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="model.multipliers has 4 levels, and the latent's side 4"):
        diffusing(multipliers=(1, 1, 1, 1))
    with pytest.raises(UserError, match="first_stage is no autoencoder of this family"):
        diffusion.build(Config(**TINY), Given(CLIP, {"first_stage": diffusing()}))
