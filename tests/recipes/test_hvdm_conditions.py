"""What the diffusion is told, in training and in sampling, on tiny networks without training."""

import dataclasses

import pytest
import torch
from torch import nn

from hvdm.errors import UserError
from hvdm.ops.motion import strength
from hvdm.recipe import Batch, Clip, Context, Given, Noise, to_model
from hvdm.recipes.hvdm import autoencoder, pvdm_autoencoder
from hvdm.recipes.hvdm.conditions import choose
from hvdm.recipes.hvdm.diffusion import Config, build, from_data
from hvdm.recipes.hvdm.generation import One, guided, joined
from hvdm.recipes.hvdm.requests import GUIDANCE, KINDS, asked
from hvdm.sampling import ask

CLIP = Clip(4, 16, 16)
SMALL = {
    "patch": 4, "width": 8, "depth": 1, "heads": 1, "head_dim": 4, "projection_depth": 1,
    "projection_heads": 1, "projection_head_dim": 4, "projection_hidden": 8,
}  # fmt: skip
STAGE = autoencoder.Config(**SMALL, conv_channels=(4,), fusion_depth=1)
PLAIN = Config(width=8, multipliers=(1, 2), blocks=1, sampling_steps=3, eta=0.0, conditional=0.0)
FULL = dataclasses.replace(PLAIN, conditional=0.4, still=0.4, motion="stored", labels=5)
LEVELS = {"past": True, "motion_levels": [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]}


@pytest.fixture(autouse=True)
def doubles():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def tiny(config=FULL, found=LEVELS, planes=False):
    """A recipe whose zero layers have weights, as after some training."""
    torch.manual_seed(0)
    stage = autoencoder.build(STAGE, Given(CLIP))
    if planes:
        stage = pvdm_autoencoder.build(pvdm_autoencoder.Config(**SMALL), Given(CLIP))
    recipe = build(config, Given(CLIP, {"first_stage": stage}, found))
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in recipe.trained.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=source))
    return recipe


def rows(draws, frames=8):
    videos = [
        torch.randint(1, 256, (frames, 16, 16, 3), generator=torch.Generator().manual_seed(d))
        for d in draws
    ]
    fields = {
        "video": torch.stack(videos).to(torch.uint8),
        "motion": torch.tensor([d % 10 / 10 for d in draws]),
        "label": torch.tensor([d % 5 for d in draws]),
    }
    return Batch(fields, tuple(map(str, draws)), tuple(draws), torch.ones(len(draws)))


def told_in_training(recipe, batch, draws):
    seen = []
    net = recipe.trained["denoiser"]
    with net.register_forward_pre_hook(lambda _, given: seen.append(given)):
        recipe.phases[0].loss(batch, Context(0, draws, "denoiser"))
    _, _, beside, motion, label = seen[0]
    return beside, motion, label


def count(config):
    recipe = tiny(config)
    return sum(p.numel() for p in recipe.trained.parameters())


# Networks


def test_what_is_not_told_has_no_weights():
    plain, time = count(PLAIN), 4 * PLAIN.width
    motion = (PLAIN.width + 1) * time + (time + 1) * time + time
    assert count(dataclasses.replace(PLAIN, still=0.5, conditional=0.5)) == plain
    assert count(dataclasses.replace(PLAIN, motion="measured")) == plain + motion
    assert count(dataclasses.replace(PLAIN, labels=5)) == plain + 6 * time


@pytest.mark.parametrize("planes", [False, True])
def test_every_condition_is_seen_and_begins_as_nothing(planes):
    recipe = tiny(planes=planes)
    net, t = recipe.trained["denoiser"], torch.tensor([5, 5])
    x, other = torch.randn(2, 2, *recipe.latent_shape)
    more = {
        "condition": other,
        "motion": torch.tensor([0.2, 0.9]),
        "label": torch.tensor([0, 3]),
    }
    untold = net(x, t)
    for name, value in more.items():
        assert not torch.allclose(net(x, t, **{name: value}), untold), name
    with torch.no_grad():
        for part in (net.numbers.motion.out, net.numbers.motion.untold, net.numbers.label):
            part.reset_parameters()
    numbers = {name: more[name] for name in ("motion", "label")}
    assert torch.equal(net(x, t, **numbers), net(x, t))


def test_minus_one_is_untold():
    recipe = tiny()
    net, t = recipe.trained["denoiser"], torch.tensor([5, 5])
    x = torch.randn(2, *recipe.latent_shape)
    none = torch.tensor([-1, -1])
    torch.testing.assert_close(net(x, t, None, none.double(), none), net(x, t))


def test_every_weight_gets_a_gradient():
    recipe = tiny()
    loss, _ = recipe.phases[0].loss(rows((0, 1)), Context(0, (0, 1), "denoiser"))
    loss.sum().backward()
    assert [n for n, p in recipe.trained.named_parameters() if p.grad is None] == []


# Training


def test_shares_of_rows_are_told_their_past_or_their_first_frame():
    draws = tuple(range(400))
    choice = choose(torch.zeros(400, 1, 8, 1, 1), 4, 0.3, 0.5, Context(0, draws, "p"))
    assert choice.past.double().mean().item() == pytest.approx(0.3, abs=0.06)
    assert choice.still.double().mean().item() == pytest.approx(0.5, abs=0.06)
    assert not (choice.past & choice.still).any()
    assert set(choice.first[choice.still].tolist()) == {0, 1, 2, 3, 4}


def test_clips_can_be_held_to_begin_at_every_so_many_frames():
    video, context = torch.zeros(400, 1, 8, 1, 1), Context(0, tuple(range(400)), "p")
    free, held = (choose(video, 5, 0.3, 0.5, context, every) for every in (1, 2))
    assert set(held.first[held.still].tolist()) == {0, 2, 4}
    assert set(held.first[held.past].tolist()) == {5}  # the past ends where its row says
    assert torch.equal(held.past, free.past) and torch.equal(held.still, free.still)


def test_a_run_s_clips_begin_where_its_config_says():
    recipe = tiny(dataclasses.replace(FULL, conditional=0, still=1.0, begin_every=4))
    draws = tuple(range(8))
    batch = rows(draws)  # eight frames, so clips of four begin at 0 or 4
    beside, _, _ = told_in_training(recipe, batch, draws)
    frames = batch.pixels().shape[2] // 2
    for row, video in zip(beside, batch.pixels(), strict=True):
        stills = [
            recipe.to_latent(video[None, :, i : i + 1].expand(-1, -1, frames, -1, -1))[0]
            for i in (0, frames)
        ]
        assert any(torch.allclose(row, still, atol=1e-5) for still in stills)


def test_without_a_past_only_first_frames_are_told():
    draws = tuple(range(400))
    choice = choose(torch.zeros(400, 1, 4, 1, 1), 0, 0.3, 0.5, Context(0, draws, "p"))
    assert not choice.past.any() and not choice.first.any()
    assert choice.still.double().mean().item() == pytest.approx(0.5, abs=0.06)


def test_a_shown_row_sees_its_first_frame_standing_still():
    recipe = tiny(dataclasses.replace(FULL, conditional=0.0, still=1.0))
    batch, draws = rows((0, 1), frames=4), (0, 1)
    beside, _, _ = told_in_training(recipe, batch, draws)
    still = batch.pixels()[:, :, :1].expand(-1, -1, 4, -1, -1)
    torch.testing.assert_close(beside, recipe.to_latent(still))


def test_rows_are_told_the_rank_of_their_motion_and_some_are_not():
    recipe, draws = tiny(), tuple(range(100))
    _, motion, label = told_in_training(recipe, rows(draws), draws)
    untold = motion == -1
    assert untold.double().mean().item() == pytest.approx(0.1, abs=0.07)
    assert (label == -1).double().mean().item() == pytest.approx(0.1, abs=0.07)
    expected = [(sum(v < d % 10 / 10 for v in LEVELS["motion_levels"])) for d in draws]
    # of six levels as many are below; one that is equal counts half
    for d in range(100):
        if not untold[d]:
            assert abs(motion[d].item() * 6 - expected[d]) <= 0.5


def test_what_a_row_is_told_does_not_depend_on_its_batch():
    recipe, draws = tiny(), (3, 7, 11, 12)
    together = told_in_training(recipe, rows(draws), draws)
    alone = told_in_training(recipe, rows(draws[2:3]), draws[2:3])
    for whole, one in zip(together, alone, strict=True):
        torch.testing.assert_close(whole[2:3], one)


def test_clips_that_were_seen_are_not_encoded_again():
    draws, seen = (0, 1, 2), []
    plain, memory = tiny(), tiny(dataclasses.replace(FULL, remember=5))
    expected, _ = plain.phases[0].loss(rows(draws), Context(0, draws, "denoiser"))
    net = memory.frozen["autoencoder"].encoder
    net.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    for encoded in (6, 1):
        found, _ = memory.phases[0].loss(rows(draws), Context(0, draws, "denoiser"))
        torch.testing.assert_close(found, expected)
        assert seen == [1] * encoded  # five of the six fit
        seen.clear()


@pytest.mark.parametrize("motion", ["stored", "measured"])
def test_the_distribution_is_that_of_the_first_rows(motion):
    config = dataclasses.replace(FULL, motion=motion)
    found = from_data(config, CLIP, rows)
    levels = found["motion_levels"]
    assert found["past"] and len(levels) == 101 and levels == sorted(levels)
    values = torch.tensor([d % 10 / 10 for d in range(512)])
    if motion == "measured":
        values = strength(rows(range(512)).pixels()[:, :, 4:])
    assert levels[50] == pytest.approx(values.quantile(0.5).item(), abs=1e-5)
    assert found == from_data(config, CLIP, rows)


def test_rows_without_a_past_are_noticed():
    found = from_data(PLAIN, CLIP, lambda draws: rows(draws, frames=4))
    assert found == {"past": False}


def test_latents_have_no_frames_to_measure():
    def latents(draws):
        batch = rows(draws)
        fields = {**batch.fields, "latent": torch.zeros(len(draws), 4, 4, 4, 4)}
        return dataclasses.replace(batch, fields=fields)

    config = dataclasses.replace(FULL, motion="measured")
    with pytest.raises(UserError, match="model.motion=measured needs the clips"):
        from_data(config, CLIP, latents)
    stored = from_data(dataclasses.replace(FULL, motion="stored"), CLIP, latents)
    assert stored["motion_levels"][-1] == pytest.approx(0.9) and stored["past"] is False


@pytest.mark.parametrize(
    "change, words",
    [
        ({"conditional": 0.6, "still": 0.6}, "together at most 1"),
        ({"still": -0.1}, "model.still=-0.1: it is a share"),
        ({"begin_every": 0}, "model.begin_every=0: a number of frames, at least 1"),
        ({"labels": -1}, "model.labels=-1"),
        ({"variant": "released"}, "model.variant=released is told no motion"),
    ],
)
def test_wrong_configs_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        tiny(dataclasses.replace(FULL, **change))


# Sampling


def sampled(recipe, what="clip", draws=(0, 1), **options):
    return recipe.sample(recipe.trained, ask(recipe, what, None, options), Noise(0, draws))


def picture(seed=0, count=1):
    source = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 16, 16, 3), generator=source).to(torch.uint8)


def test_a_long_video_begins_with_the_clip_and_has_its_length():
    recipe = tiny()
    for reuse in ("latent", "pixels"):
        video = sampled(recipe, "long", frames=10, reuse=reuse, overlap=0, fade=0)
        assert video.shape == (2, 3, 10, 16, 16)
        torch.testing.assert_close(video[:, :, :4], sampled(recipe))


def test_each_clip_is_told_the_one_before():
    recipe, seen = tiny(), []
    net = recipe.trained["denoiser"]
    with net.register_forward_pre_hook(
        lambda _, __, more: seen.append(more.get("condition")), with_kwargs=True
    ):
        request = ask(recipe, "long", None, {"frames": 12, "overlap": 0, "fade": 0})
        video = recipe.sample(recipe.trained, request, Noise(0, (0,)))
    assert seen[:3] == [None] * 3 and len(seen) == 9
    torch.testing.assert_close(recipe.to_video(seen[3]), video[:, :, :4])
    torch.testing.assert_close(recipe.to_video(seen[6]), video[:, :, 4:8])


def test_pixels_are_encoded_again():
    recipe = tiny()
    latent, pixels = (sampled(recipe, "long", frames=8, reuse=r) for r in ("latent", "pixels"))
    assert not torch.allclose(latent[:, :, 4:], pixels[:, :, 4:])


def test_tiles_that_share_frames_change_the_seam_alone():
    recipe = tiny()
    apart, blended = (sampled(recipe, "long", frames=16, overlap=o) for o in (0, 2))
    assert apart.shape == blended.shape
    assert not torch.allclose(apart, blended)


def test_the_jump_between_clips_fades():
    first, second = (torch.randn(1, 2, 4, 2, 2) for _ in range(2))
    apart = joined([first, second], 0, 9.0)
    torch.testing.assert_close(apart, torch.cat([first, second], 2))
    faded = joined([first, second], 2, 9.0)
    torch.testing.assert_close(faded[:, :, :4], first)
    torch.testing.assert_close(faded[:, :, 4], 2 * first[:, :, -1] - first[:, :, -2])
    jump = second[:, :, 0] - faded[:, :, 4]
    torch.testing.assert_close(faded[:, :, 5], second[:, :, 1] - jump / 2)
    torch.testing.assert_close(faded[:, :, 6:], second[:, :, 2:])
    assert joined([first, second], 4, 0.5)[:, :, 4:].abs().max() <= 0.5


def test_a_long_video_of_planes():
    recipe = tiny(planes=True)
    assert sampled(recipe, "long", frames=7).shape == (2, 3, 7, 16, 16)
    with pytest.raises(UserError, match="latents of planes have one size"):
        sampled(recipe, size="32x32")


def test_a_picture_is_told_as_a_clip_that_stands_still():
    recipe, seen = tiny(), []
    image = picture()
    with recipe.trained["denoiser"].register_forward_pre_hook(
        lambda _, __, more: seen.append(more["condition"]), with_kwargs=True
    ):
        video = sampled(recipe, "image", image=image[0])
    frame = to_model(image[:, None])
    torch.testing.assert_close(seen[0][:1], recipe.to_latent(frame.expand(-1, -1, 4, -1, -1)))
    assert video.shape == (2, 3, 4, 16, 16)
    one_each = sampled(recipe, "image", image=picture(count=2))
    torch.testing.assert_close(one_each[:1], video[:1])
    assert not torch.allclose(one_each[1], video[1])


def test_motions_and_labels_are_taken_in_turn():
    recipe = tiny()
    video = sampled(recipe, "dynamics", (0, 1, 2), motion="slow,fast", label=[1, 2, 3])
    alone = sampled(recipe, "dynamics", (1,), motion=0.9, label="2")
    torch.testing.assert_close(video[1:2], alone)
    other = sampled(recipe, "dynamics", (1,), motion="slow", label="2")
    assert not torch.allclose(other, alone)


def test_a_video_does_not_depend_on_its_batch():
    recipe = tiny()
    options = {"frames": 10, "motion": "slow,fast", "image": picture()}
    together = sampled(recipe, "long", (0, 1, 2), **options)
    torch.testing.assert_close(sampled(recipe, "long", (2,), **options), together[2:])


def test_larger_clips_are_decoded_by_tiles():
    recipe = tiny()
    seen = []
    net = recipe.frozen["autoencoder"].decoder
    with net.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[2:])):
        video = sampled(recipe, size="32x48")
    assert video.shape == (2, 3, 4, 32, 48)
    assert set(seen) == {(4, 4, 4)} and len(seen) == 3 * 4


def test_a_long_video_is_guided_by_its_past_only_where_that_is_asked():
    recipe = tiny(dataclasses.replace(FULL, guidance=1.5))

    def weights(options):
        return asked(ask(recipe, "long", None, options), recipe.abilities).guidance

    assert weights({}) == {"past": 0.0, "image": 1.5, "motion": 1.5, "label": 1.5}
    assert weights({"guidance": 2}) == dict.fromkeys(GUIDANCE, 2)
    assert weights({"guidance.past": 1}) == {"past": 1, "image": 1.5, "motion": 1.5, "label": 1.5}


def test_guidance_of_several_is_nested_and_costs_only_what_counts():
    recipe = tiny()
    net = recipe.trained["denoiser"]
    x, beside = torch.randn(2, 1, *recipe.latent_shape)
    t, motion = torch.tensor([500]), torch.tensor([0.7])
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))

    def told(past, strong):
        return [One("condition", beside, past), One("motion", motion, strong)]

    with torch.no_grad():
        none, one, both = net(x, t), net(x, t, beside), net(x, t, beside, motion)
        predict = recipe.predict(recipe.trained)
        for past, strong, expected, cost in (
            (0.0, 0.0, both, 1),
            (2.0, 2.0, 3 * both - 2 * none, 2),
            (0.0, 2.0, 3 * both - 2 * one, 2),
            (1.0, 2.0, none + 2 * (one - none) + 3 * (both - one), 3),
            (-1.0, 0.0, none + both - one, 3),
        ):
            calls.clear()
            torch.testing.assert_close(guided(predict, told(past, strong))(x, t), expected)
            assert len(calls) == cost
        calls.clear()
        torch.testing.assert_close(guided(predict, [])(x, t), none)


def test_progress_runs_from_nothing_to_one():
    recipe, shares = tiny(), []
    request = dataclasses.replace(ask(recipe, "long", 2, {"frames": 12}), progress=shares.append)
    recipe.sample(recipe.trained, request, Noise(0, (0,)))
    assert shares == pytest.approx([k / 6 for k in range(1, 7)])


def test_the_request_s_sampler_counts():
    recipe = tiny()
    plain = sampled(recipe)
    for options in ({"sampler": "ddpm"}, {"sampler": "dpm++2m"}, {"eta": "1"}):
        assert not torch.allclose(sampled(recipe, **options), plain)


@pytest.mark.parametrize(
    "what, options, words",
    [
        ("film", {}, "what=film: this model cannot sample that; choose from: clip, dynamics"),
        ("clip", {"motoin": 1}, "unknown key 'motoin' for what=clip; did you mean 'motion'"),
        ("clip", {"frames": 9}, "unknown key 'frames' for what=clip"),
        ("image", {}, "image= is missing"),
        ("dynamics", {}, "motion= is missing: slow, medium, fast"),
        ("dynamics", {"motion": "quick"}, "motion='quick': expected slow, medium, fast"),
        ("dynamics", {"motion": 1.5}, "motion=1.5: expected"),
        ("dynamics", {"motion": "nan"}, "motion='nan': expected"),
        ("clip", {"label": 5}, "this run knows labels 0 to 4"),
        ("clip", {"label": "x"}, "label='x': expected a number"),
        ("clip", {"sampler": "dimm"}, "did you mean 'ddim'"),
        ("clip", {"eta": 2}, "eta=2: expected a number of at least 0 and at most 1"),
        ("clip", {"guidance": "much"}, "guidance='much'"),
        ("clip", {"guidance.motion": 1}, "is told no motion here"),
        ("long", {"reuse": "both"}, "reuse='both' is not known"),
        ("long", {"frames": 0}, "frames=0: expected a number of at least 1"),
        ("long", {"frames": "9.5"}, "frames='9.5' is no whole number"),
        ("long", {"overlap": 3}, "overlap=3: tiles of 4 frames share at most 2"),
        ("long", {"fade": 5}, "fade=5: the jump between clips of 4 frames fades within one"),
        ("image", {"image": "a.png"}, "image: expected pixels"),
        ("image", {"image": torch.zeros(8, 8, 3).byte()}, "1 of 8x8 for 2 clips of 16x16"),
        ("clip", {"size": "big"}, "size='big': expected HEIGHTxWIDTH"),
        ("clip", {"size": "24x16"}, "size=24x16: this model makes clips of 16x16"),
    ],
)
def test_wrong_requests_are_one_line(what, options, words):
    with pytest.raises(UserError) as caught:
        sampled(tiny(), what, **options)
    assert words in str(caught.value), caught.value


@pytest.mark.parametrize(
    "what, options, words",
    [
        ("long", {}, "what=long: this run was trained without being told of the clip before"),
        ("image", {"image": picture()}, "train one with model.still=0.3"),
        ("dynamics", {"motion": 1}, "train one with model.motion=stored"),
        ("clip", {"label": 1}, "train one with model.labels=N"),
    ],
)
def test_a_run_is_asked_only_for_what_it_was_told(what, options, words):
    with pytest.raises(UserError) as caught:
        sampled(tiny(PLAIN), what, **options)
    assert words in str(caught.value), caught.value


def test_a_long_video_needs_a_past_in_the_data_too():
    recipe = tiny(FULL, {"past": False})
    with pytest.raises(UserError, match=r"model.conditional=0.3 model.before=4"):
        sampled(recipe, "long")
    assert sampled(recipe, "long", frames=3).shape[2] == 3


def test_every_kind_is_sampled():
    recipe = tiny()
    needs = {"image": {"image": picture()}, "dynamics": {"motion": "medium"}}
    for what in KINDS:
        assert sampled(recipe, what, **needs.get(what, {})).isfinite().all()


def test_the_recipe_says_what_it_samples():
    assert tiny().samples is KINDS and isinstance(tiny().trained, nn.ModuleDict)
