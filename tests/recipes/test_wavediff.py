"""WaveDiff's recipe: what it begins with, what its losses do when, how it samples."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from data_tools.synthetic import digits
from eval.networks.digit_reader import read_digits
from hvdm.config import DataConfig
from hvdm.errors import UserError
from hvdm.recipe import Batch, Clip, Context, Given, Noise
from hvdm.recipes.wavediff import diffusion
from hvdm.recipes.wavediff.diffusion import Config
from hvdm.sampling import ask

PLAIN = {"bottleneck": False, "resampling": False, "pyramid": False}
SMALL = Config(
    width=16, multipliers=(1, 2), attention=(), mapping=1, steps=4, critic="small",
    critic_layers=3, critic_width=8, gradient_penalty=0.5, **PLAIN,
)  # fmt: skip
CLIP = Clip(1, 16, 16)


def built(config: Config = SMALL, clip: Clip = CLIP) -> Any:
    torch.manual_seed(0)
    return diffusion.build(config, Given(clip))


def rows(count: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(256, (count, 1, 16, 16, 3), generator=generator, dtype=torch.uint8)
    fields = {"video": video, "label": torch.arange(count) % 3}
    return Batch(fields, ("row",) * count, tuple(range(count)), torch.ones(count))


def context(phase: int, step: int, count: int = 8) -> Context:
    return Context(0, tuple(range(count)), f"phase{phase}", step=step)


@pytest.mark.parametrize("space", ["wavelet", "pixels"])
def test_losses_begin_where_a_blind_critic_and_an_empty_answer_do(space: str) -> None:
    recipe = built(replace(SMALL, space=space))
    assert [phase.net for phase in recipe.phases] == ["critic", "generator"] and recipe.group == 4
    loss, _ = recipe.critic_loss(rows(), context(0, step=1))
    assert loss.shape == (8,) and float(loss.detach().mean()) == pytest.approx(
        2 * math.log(2), abs=1e-3
    )
    loss, logs = recipe.generator_loss(rows(), context(1, step=1))
    clean = recipe.bands.of(rows().pixels()).abs().mean((1, 2, 3))
    assert torch.allclose(logs["reconstruction"], clean, atol=1e-4)
    assert torch.allclose(loss, clean + math.log(2), atol=1e-3)


def test_coefficients_lie_within_one_and_lead_back() -> None:
    recipe = built()
    y = recipe.bands.of(rows().pixels())
    assert y.shape == (8, *recipe.bands.shape) == (8, 12, 8, 8) and float(y.abs().max()) <= 1
    assert torch.allclose(recipe.bands.back(y), rows().pixels()[:, :, 0], atol=1e-5)


def test_the_slope_is_penalized_now_and_then_and_not_by_the_interval() -> None:
    recipe = built()
    torch.nn.init.normal_(recipe.trained["critic"].score.weight, std=3.0)
    torch.nn.init.normal_(recipe.trained["critic"].last.weight, std=0.1)
    with_it, _ = recipe.critic_loss(rows(), context(0, step=10))
    without, _ = recipe.critic_loss(rows(), context(0, step=11))
    assert torch.all(with_it > without)
    recipe.config = replace(SMALL, gradient_penalty=1.0)
    twice, _ = recipe.critic_loss(rows(), context(0, step=10))
    assert torch.allclose(twice - without, 2 * (with_it - without), rtol=1e-3, atol=1e-5)


def test_only_the_generator_without_a_critic() -> None:
    recipe = built(replace(SMALL, adversarial=False))
    assert list(recipe.trained) == ["generator"] and recipe.group == 1
    loss, logs = recipe.generator_loss(rows(), context(0, step=1))
    assert torch.equal(loss, logs["reconstruction"])


def test_sampling_takes_as_many_calls_as_steps_and_draws_by_number() -> None:
    recipe, calls = built(replace(SMALL, labels=3)), []
    recipe.trained["generator"].register_forward_hook(lambda *given: calls.append(1))
    request = ask(recipe, options={"label": "2,0"})
    both = recipe.sample(recipe.trained, request, Noise(0, (0, 1)))
    assert both.shape == (2, 3, 16, 16) and len(calls) == 4
    one = recipe.sample(recipe.trained, request, Noise(0, (1,)))
    assert torch.allclose(one[0], both[1], atol=1e-6)
    with pytest.raises(UserError, match="label=3: this run knows labels 0 to 2"):
        recipe.sample(recipe.trained, ask(recipe, options={"label": "3"}), Noise(0, (0,)))


@pytest.mark.parametrize(
    "config, clip, said",
    [
        (SMALL, Clip(1, 16, 32), "pictures are square"),
        (SMALL, Clip(1, 18, 18), "need a multiple of 4"),
        (replace(SMALL, steps=0), CLIP, "model.steps=0 is below 1"),
    ],
)
def test_what_cannot_be_built(config: Config, clip: Clip, said: str) -> None:
    with pytest.raises(UserError, match=said):
        built(config, clip)


def test_labels_are_read_where_the_model_is_told_them() -> None:
    data = DataConfig("datasets/digits", frames=1)
    assert [field.name for field in diffusion.reads(SMALL, data)] == ["video"]
    told = diffusion.reads(replace(SMALL, labels=10), data)
    assert [field.name for field in told] == ["video", "label"]


def test_a_critic_begins_with_pictures_and_learns_classes() -> None:
    critic, y = built(replace(SMALL, labels=3)).trained["critic"], torch.randn(8, 12, 8, 8)
    t, labels = torch.arange(8) % 4, torch.arange(8) % 3
    scores = critic(y, y.flip(0), t, labels)
    assert torch.equal(scores, critic(y, y.flip(0), t, labels.flip(0)))
    scores.sum().backward()
    assert bool((critic.label.weight.grad.abs().sum(1) > 0).all())


def test_the_reader_of_digits_is_right_on_those_held_out() -> None:
    drawn = [digits.picture("test", number, 32, 32) for number in range(digits.HELD_OUT)]
    found = read_digits(torch.stack([torch.from_numpy(one.video[0]) for one in drawn]))
    right = found == torch.tensor([one.label for one in drawn])
    assert float(right.float().mean()) >= 0.97
    clips = [digits.clip(1, "test", number, 8, 32, 32) for number in range(100)]
    for end in (0, -1):
        found = read_digits(torch.stack([torch.from_numpy(one.video[end]) for one in clips]))
        right = found == torch.tensor([one.label for one in clips])
        assert float(right.float().mean()) >= 0.97
