import dataclasses
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hvdm.errors import UserError
from hvdm.recipe import Batch, Clip, Context, Given, Noise, SampleRequest, as_batch
from hvdm.recipes.hvdm import autoencoder
from hvdm.recipes.hvdm.conditions import choose, frames_from
from hvdm.recipes.hvdm.diffusion import Config, build
from hvdm.recipes.hvdm.generation import One, guided
from hvdm.recipes.hvdm.unet import Double, Halve, UNet

CLIP = Clip(4, 8, 16)
STAGE = autoencoder.Config(
    patch=4,
    width=8,
    depth=1,
    heads=1,
    head_dim=4,
    projection_depth=1,
    projection_heads=1,
    projection_head_dim=4,
    projection_hidden=8,
    conv_channels=(4,),
    fusion_depth=1,
)
TINY = Config(width=8, multipliers=(1, 2), blocks=1, sampling_steps=3)


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def tiny(config=TINY, clip=CLIP):
    torch.manual_seed(0)
    return build(config, Given(clip, {"first_stage": autoencoder.build(STAGE, Given(clip))}))


def awake(config=TINY):
    """A recipe whose zero layers have weights, as after some training."""
    recipe = tiny(config)
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in recipe.trained.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=source, dtype=torch.float32))
    return recipe


def rows(draws):
    videos = [
        torch.randint(0, 256, (4, 8, 16, 3), generator=torch.Generator().manual_seed(d))
        for d in draws
    ]
    fields = {"video": torch.stack(videos).to(torch.uint8)}
    return Batch(fields, tuple(map(str, draws)), tuple(draws), torch.ones(len(draws)))


def loss_of(recipe, draws):
    return recipe.phases[0].loss(rows(draws), Context(0, tuple(draws), "denoiser"))


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("width, millions", [(128, 299.6), (256, 1197.9)])
def test_parameter_counts_of_other_widths(width, millions):
    with torch.device("meta"):
        net = UNet(4, width, (1, 2, 4, 4), 2, False)
    assert count(net) / 1e6 == pytest.approx(millions, abs=0.05)


def test_parameter_count_of_the_paper():
    clip = Clip(16, 256, 256)
    with torch.device("meta"):
        first_stage = autoencoder.build(autoencoder.Config(), Given(clip))
        recipe = build(Config(), Given(clip, {"first_stage": first_stage}))
        denoiser = recipe.trained["denoiser"]
        latent = torch.empty(1, *recipe.latent_shape)
        assert denoiser(latent, torch.zeros(1), latent).shape == latent.shape
    assert count(denoiser) == 673_895_812
    assert len(denoiser.down.skips) == 12


def test_time_is_never_halved_and_space_at_each_level():
    net = UNet(4, 8, (1, 2, 2), 1, False)
    time = net.time(torch.zeros(1), torch.zeros(()))
    outputs = net.down(net.stem(torch.zeros(1, 8, 3, 8, 4)), time)
    sides = [tuple(x.shape[2:]) for x in outputs]
    assert sides == [(3, 8, 4), (3, 8, 4), (3, 4, 2), (3, 4, 2), (3, 2, 1), (3, 2, 1)]


def test_resampling_is_average_pooling_and_nearest_neighbour():
    x = torch.randn(2, 3, 2, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(Halve()(x), nn.AvgPool3d((1, 2, 2))(x))
    assert torch.equal(Double()(x), nn.Upsample(scale_factor=(1, 2, 2))(x))


def test_loss_starts_at_the_variance_of_the_noise():
    recipe, draws = tiny(), tuple(range(64))
    losses, logs = loss_of(recipe, draws)
    eps = Context(0, draws, "denoiser").randn(recipe.latent_shape, "eps")
    torch.testing.assert_close(losses, eps.square().mean((1, 2, 3, 4)))
    torch.testing.assert_close(logs["mse"], losses)
    assert losses.mean().item() == pytest.approx(1, abs=0.05)


def test_a_rows_loss_does_not_know_its_batch():
    with default_dtype(torch.float64):
        recipe = awake()
        together, _ = loss_of(recipe, (0, 1, 2))
        alone = torch.cat([loss_of(recipe, (draw,))[0] for draw in (0, 1, 2)])
    assert together.dtype == torch.float64
    torch.testing.assert_close(together, alone, atol=1e-9, rtol=0)


def test_loss_takes_nothing_from_the_global_generator():
    recipe = awake()
    before = torch.get_rng_state()
    loss_of(recipe, (0,))
    assert torch.equal(before, torch.get_rng_state())


def test_every_weight_gets_a_gradient_and_the_first_stage_none():
    recipe = awake()
    loss_of(recipe, (0, 1))[0].sum().backward()
    assert [n for n, p in recipe.trained.named_parameters() if p.grad is None] == []
    assert list(recipe.frozen) == ["autoencoder"]
    assert not any(p.requires_grad for p in recipe.frozen.parameters())
    assert not recipe.frozen.training


def test_checkpointing_changes_no_gradient():
    gradients = []
    for flag in (False, True):
        recipe = awake(dataclasses.replace(TINY, activation_checkpointing=flag))
        loss_of(recipe, (0, 1))[0].sum().backward()
        gradients.append([p.grad for p in recipe.trained.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_bf16_autocast_runs():
    recipe = awake()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = loss_of(recipe, (0, 1))
    loss.sum().backward()
    torch.testing.assert_close(loss, loss_of(recipe, (0, 1))[0], rtol=0.1, atol=0)


def test_the_condition_is_seen():
    with default_dtype(torch.float64):
        recipe = awake()
        net, x = recipe.trained["denoiser"], torch.randn(1, *recipe.latent_shape)
        t = torch.tensor([5])
        assert not torch.allclose(net(x, t, x), net(x, t, torch.zeros_like(x)))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_sample_is_a_function_of_its_draw(eta):
    with default_dtype(torch.float64):
        recipe = awake(dataclasses.replace(TINY, eta=eta))
        request = SampleRequest()
        clips = recipe.sample(recipe.trained, request, Noise(0, (5, 6, 7)))
        shuffled = recipe.sample(recipe.trained, request, Noise(0, (7, 5)))
    assert clips.shape == (3, *CLIP.shape)
    assert clips.abs().max() <= 1
    assert not clips.requires_grad
    torch.testing.assert_close(shuffled, clips[[2, 0]], atol=1e-9, rtol=0)
    assert not torch.allclose(clips[0], clips[1])


def test_sampling_uses_the_weights_it_is_given():
    recipe = awake()
    other = awake()
    nn.init.ones_(other.trained["denoiser"].head.bias)
    noise, request = Noise(0, (0,)), SampleRequest(steps=2)
    ours = recipe.sample(recipe.trained, request, noise)
    assert not torch.equal(ours, recipe.sample(other.trained, request, noise))


def test_sampling_takes_the_steps_of_the_request():
    recipe, calls = tiny(), []
    recipe.trained["denoiser"].register_forward_hook(lambda *_: calls.append(1))
    recipe.sample(recipe.trained, SampleRequest(), Noise(0, (0,)))
    recipe.sample(recipe.trained, SampleRequest(steps=5), Noise(0, (0,)))
    assert len(calls) == 3 + 5


def test_zero_steps_are_refused():
    recipe = tiny()
    with pytest.raises(UserError, match="steps=0"):
        recipe.sample(recipe.trained, SampleRequest(steps=0), Noise(0, (0,)))


def test_levels_must_divide_the_latent():
    with pytest.raises(UserError, match=r"data.height.*latent height of 2.*multiple of 4"):
        tiny(dataclasses.replace(TINY, multipliers=(1, 2, 2)))
    with pytest.raises(UserError, match="multipliers"):
        tiny(dataclasses.replace(TINY, multipliers=()))


def test_an_encoder_is_needed():
    with pytest.raises(UserError, match="autoencoder"):
        build(TINY, Given(CLIP, {"first_stage": SimpleNamespace(coder=None)}))


# What is told of the past, what is predicted, how it is sampled


def long_rows(draws, padded=()):
    videos = torch.stack(
        [
            torch.randint(1, 256, (8, 8, 16, 3), generator=torch.Generator().manual_seed(d))
            for d in draws
        ]
    )
    for row in padded:
        videos[row, :4] = 0
    fields = {"video": videos.to(torch.uint8)}
    return Batch(fields, tuple(map(str, draws)), tuple(draws), torch.ones(len(draws)))


def test_rows_are_told_their_past_one_by_one():
    draws = tuple(range(400))
    video = torch.zeros(400, 1, 8, 1, 1)
    video[0, :, :4] = -1
    choice = choose(video, 4, 0.3, 0.0, Context(0, draws, "p"))
    told, first = choice.past, choice.first
    assert told.float().mean().item() == pytest.approx(0.3, abs=0.06)
    assert set(first[told].tolist()) == {4}
    assert set(first[~told].tolist()) == {0, 1, 2, 3, 4}
    assert (told[0].item(), first[0].item()) == (False, 4)
    again = choose(video[7:9], 4, 0.3, 0.0, Context(0, draws[7:9], "p"))
    assert torch.equal(again.past, told[7:9])
    assert not choice.still.any()


def test_a_told_row_sees_the_latent_of_the_clip_before():
    recipe = awake(dataclasses.replace(TINY, conditional=1.0))
    batch = long_rows((0, 1), padded=(1,))
    seen = []
    recipe.trained["denoiser"].register_forward_pre_hook(lambda _, given: seen.append(given[2]))
    recipe.phases[0].loss(batch, Context(0, (0, 1), "p"))
    past = recipe.to_latent(batch.pixels()[:, :, :4])
    torch.testing.assert_close(seen[0][0], past[0])
    assert not seen[0][1].any()


def test_frames_from_starts_where_it_is_told():
    video = torch.arange(8.0).reshape(1, 1, 8, 1, 1).expand(2, 1, 8, 1, 1)
    frames = frames_from(video, torch.tensor([0, 3]), 4)
    assert frames.flatten(1).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6]]


def test_v_prediction_starts_at_the_size_of_v():
    recipe, draws = tiny(dataclasses.replace(TINY, predicts="v")), tuple(range(8))
    losses, _ = loss_of(recipe, draws)
    context = Context(0, draws, "denoiser")
    eps, t = context.randn(recipe.latent_shape, "eps"), context.randint(1000, "t")
    kept = recipe.alpha_bar[t].reshape(-1, 1, 1, 1, 1).float()
    v = kept.sqrt() * eps - (1 - kept).sqrt() * recipe.to_latent(rows(draws).pixels())
    torch.testing.assert_close(losses, v.square().mean((1, 2, 3, 4)))


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm++2m"])
@pytest.mark.parametrize("predicts", ["eps", "v"])
def test_every_sampler_gives_clips(sampler, predicts):
    recipe = awake(dataclasses.replace(TINY, sampler=sampler, predicts=predicts))
    clips = recipe.sample(recipe.trained, SampleRequest(), Noise(0, (0,)))
    assert clips.shape == (1, *CLIP.shape)
    assert clips.isfinite().all()


def test_guidance_is_the_formula():
    recipe = awake()
    net = recipe.trained["denoiser"]
    x, condition = torch.randn(2, 1, *recipe.latent_shape)
    t = torch.tensor([500])
    with torch.no_grad():
        told = [One("condition", condition, 2.0)]
        found = guided(recipe.predict(recipe.trained), told)(x, t)
        by_hand = 3 * net(x, t, condition) - 2 * net(x, t)
    torch.testing.assert_close(found, by_hand)


def test_the_latent_s_scale_is_undone():
    recipe = tiny(dataclasses.replace(TINY, latent_scale=2.0))
    video = rows((0,)).pixels()
    plain = recipe.below.encode(recipe.frozen, as_batch(video))
    torch.testing.assert_close(recipe.to_latent(video), 2 * plain)
    decoded = recipe.below.decode(recipe.frozen, plain)["video"]
    torch.testing.assert_close(recipe.to_video(2 * plain), decoded)


def test_attention_sits_on_the_two_coarsest_levels():
    recipe = awake(dataclasses.replace(TINY, multipliers=(1, 2), attention=True, heads=2))
    loss_of(recipe, (0,))[0].sum().backward()
    assert [n for n, p in recipe.trained.named_parameters() if p.grad is None] == []
    with torch.device("meta"):
        net = UNet(4, 16, (1, 2, 4), 1, False, attention=2)
    levels = [block.attention is not None for block in net.down.blocks]
    assert levels == [False, False, True, False, True]


def test_a_first_stage_of_another_shape_is_refused():
    stage = autoencoder.build(STAGE, Given(CLIP))
    with pytest.raises(UserError, match="data.height=16, and first_stage was trained on 8"):
        build(TINY, Given(Clip(4, 16, 16), {"first_stage": stage}))
