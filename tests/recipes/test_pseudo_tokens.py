"""The tokenizer of pseudo videos and the priors on its tokens."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from hvdm.errors import UserError
from hvdm.recipe import Batch, Clip, Context, Given, Noise, SampleRequest
from hvdm.recipes.pseudo_video import autoregressive, masked, tokenizer
from hvdm.recipes.pseudo_video.codebook import Codebook, CodebookShape
from hvdm.recipes.pseudo_video.masked import MaskedTransformer, masked_count
from hvdm.recipes.pseudo_video.tokenizer import Config
from hvdm.recipes.pseudo_video.vivit import patches, unpatched
from hvdm.sampling import ask

SMALL = Config(
    frames=4, width=24, heads=2, head_dim=8, spatial=1, temporal=1, codes=12, code_width=4,
    adversarial=True, adversarial_from=0, critic_width=4, dead=0.5,
)  # fmt: skip
ONE = replace(SMALL, frames=1, spatial=2)
CLIP = Clip(1, 16, 16)
LIKELY = autoregressive.Config(width=24, depth=2, heads=2, dropout=0.2, attention_dropout=0.3)
UNMASKED = masked.Config(width=24, depth=2, heads=2, head_dim=8, steps=5)


def built(config: Config = SMALL, clip: Clip = CLIP) -> Any:
    torch.manual_seed(0)
    return tokenizer.build(config, Given(clip))


def prior(module: Any, config: Any, below: Config = SMALL, clip: Clip = CLIP) -> Any:
    torch.manual_seed(1)
    recipe = module.build(config, Given(clip, {"first_stage": built(below, clip)}))
    for parameter in recipe.trained["prior"].head.parameters():  # it begins as nothing
        torch.nn.init.normal_(parameter, std=0.5)
    return recipe


def rows(count: int = 6, side: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(256, (count, 1, side, side, 3), generator=generator, dtype=torch.uint8)
    return Batch({"video": video}, ("row",) * count, tuple(range(count)), torch.ones(count))


def part(batch: Batch, begin: int, end: int) -> Batch:
    some = {name: value[begin:end] for name, value in batch.fields.items()}
    draws = batch.draws[begin:end]
    return Batch(some, batch.keys[begin:end], draws, batch.weight[begin:end])


def context(draws: tuple[int, ...] = tuple(range(6)), step: int = 1) -> Context:
    return Context(0, draws, "phase0", step=step)


# Sizes of the paper


@pytest.mark.parametrize("side, tokens", [(32, (64, 256, 576)), (64, (256, 1024, 2304))])
def test_grids_and_sizes_are_the_papers(side: int, tokens: tuple[int, ...]) -> None:
    for (frames, spatial), count in zip(((1, 8), (8, 4), (18, 4)), tokens, strict=True):
        config = Config(frames=frames, spatial=spatial, rate=0.01)
        with torch.device("meta"):
            recipe = tokenizer.build(config, Given(Clip(1, side, side)))
        grid = recipe.coder.latent_shape[1:]  # type: ignore[union-attr]
        assert grid == (max(frames // 2, 1), side // 4, side // 4)
        assert torch.Size(grid).numel() == count
        net = recipe.trained["tokenizer"]
        assert sum(p.numel() for p in net.parameters()) == pytest.approx(50.9e6, rel=0.01)


@pytest.mark.parametrize("frames, spatial, count", [(1, 8, 20.1e6), (8, 4, 20.2e6)])
def test_priors_have_the_papers_sizes(frames: int, spatial: int, count: float) -> None:
    with torch.device("meta"):
        below = tokenizer.build(Config(frames=frames, spatial=spatial), Given(Clip(1, 32, 32)))
        given = Given(Clip(1, 32, 32), {"first_stage": below})
        wide = masked.build(masked.Config(), given).trained["prior"]
        narrow = autoregressive.build(autoregressive.Config(), given).trained["prior"]
    assert sum(p.numel() for p in wide.parameters()) == pytest.approx(count, rel=5e-3)
    assert sum(p.numel() for p in narrow.parameters()) == pytest.approx(2.2e6, rel=0.03)


# The tokenizer


def test_patches_go_back_and_lie_in_raster_order() -> None:
    shape = built().shape
    frames = torch.randn(2, 3, 4, 16, 16)
    tokens = patches(frames, shape.patch)
    assert tokens.shape == (2, 2 * 4 * 4, 3 * 2 * 4 * 4)
    assert torch.equal(unpatched(tokens, shape), frames)
    third_row = tokens[0, 16 + 2 * 4 + 1].unflatten(0, (3, 2, 4, 4))
    assert torch.equal(third_row, frames[0, :, 2:4, 8:12, 4:8])


def test_later_frames_are_not_seen() -> None:
    net = built().net.tokenizer
    frames = torch.randn(1, 3, 4, 16, 16)
    other = torch.cat((frames[:, :, :2], torch.randn(1, 3, 2, 16, 16)), 2)
    first, second = net.encode(frames), net.encode(other)
    assert torch.allclose(first[:, :16], second[:, :16], atol=1e-6)
    assert not torch.allclose(first[:, 16:], second[:, 16:], atol=1e-3)


@pytest.mark.parametrize("config", [SMALL, ONE])
def test_the_critic_is_heard_with_one_frame_and_with_many(config: Config) -> None:
    """The trap of a weight taken where single frames do not come by: its slope is 0 there."""
    recipe = built(config)
    _, _, sums = recipe.loss(rows(), context())
    assert float(sums["judged"].norm()) > 1e-6 and float(sums["seen"].norm()) > 1e-6
    assert float(recipe.net.say) == 0
    recipe.after(sums)
    ratio = float(sums["seen"].norm() / sums["judged"].norm())
    assert float(recipe.net.say) == pytest.approx(min(ratio, 1.0), rel=1e-6) != 0
    recipe.net.say.fill_(1.0)
    head = recipe.net.tokenizer.head.weight
    heard, logs, _ = recipe.loss(rows(), context())
    (slope,) = torch.autograd.grad(heard.sum(), head)
    recipe.net.say.fill_(0.0)
    unheard, _, _ = recipe.loss(rows(), context())
    (other,) = torch.autograd.grad(unheard.sum(), head)
    assert not torch.allclose(slope, other, rtol=1e-4, atol=0)
    assert torch.allclose(heard - unheard, 0.1 * logs["adversarial"], atol=1e-5)


def test_patches_that_are_normed_forget_how_bright_they_are() -> None:
    frames = torch.randn(1, 3, 4, 16, 16)
    for normed in (True, False):
        net = built(replace(SMALL, norm_patches=normed)).net.tokenizer
        assert torch.allclose(net.encode(frames), net.encode(frames + 1), atol=1e-4) == normed


def test_without_a_critic_nothing_is_judged() -> None:
    recipe = built(replace(ONE, adversarial=False))
    _, logs, sums = recipe.loss(rows(), context())
    assert list(recipe.trained) == ["tokenizer"] and len(recipe.phases) == 1
    assert "judged" not in sums and "adversarial" not in logs
    assert {"perplexity", "dead", "psnr"} <= logs.keys()


def test_the_penalty_comes_now_and_then() -> None:
    recipe = built()
    assert recipe.phases[1].when(0) and not built(Config(frames=2)).phases[1:]
    with_it, _ = recipe.critic_loss(rows(), context(step=16))
    without, _ = recipe.critic_loss(rows(), context(step=17))
    assert with_it.shape == without.shape == (6,) and torch.all(with_it > without)


def test_the_penalty_reaches_the_attention_of_the_critic() -> None:
    """At 32x32 it attends; slopes of slopes have to come through."""
    recipe = built(clip=Clip(1, 32, 32))
    (attention,) = recipe.trained["critic"].attends.values()
    torch.nn.init.normal_(attention.out.weight)
    loss, _ = recipe.critic_loss(rows(side=32), context(step=16))
    loss.sum().backward()
    assert float(attention.query_key_value.weight.grad.abs().sum()) > 0


def test_four_codes_for_each_place_are_as_many_bits_as_eight_frames() -> None:
    """Or as patches of half the side; the codes of a place are not each other's."""
    eight, four, half = (
        built(config) for config in (
            replace(SMALL, frames=8), replace(ONE, codes_each=4), replace(ONE, patch=2),
        )
    )  # fmt: skip
    assert eight.bits == four.bits == half.bits == pytest.approx(4 * built(ONE).bits)
    coder, batch = four.coder, rows()
    latent = coder.encode(four.trained, batch)
    assert latent.shape[1:] == coder.latent_shape == (4, 1, 4, 16)
    directions = four.net.tokenizer.encode(four.config.made(batch.pixels()[:, :, 0], context()))
    assert not torch.allclose(directions[:, 0], directions[:, 1])
    changed = latent.clone()
    changed[:, :, 0, 0, 3] *= -1
    same, other = (coder.decode(four.trained, one)["video"] for one in (latent, changed))
    assert same.shape == (6, 3, 1, 16, 16) and not torch.allclose(same, other)


def test_it_decodes_the_last_frame_of_what_it_encodes() -> None:
    recipe = built()
    latent = recipe.coder.encode(recipe.trained, rows())
    assert latent.shape == (6, *recipe.coder.latent_shape) == (6, 4, 2, 4, 4)
    codes = recipe.book.codes
    apart = (latent.flatten(2).transpose(1, 2)[:, :, None] - codes).abs().amax(3).amin(2)
    assert float(apart.max()) < 1e-6
    video = recipe.coder.decode(recipe.trained, latent)["video"]
    assert video.shape == (6, 3, 1, 16, 16)
    with pytest.raises(UserError, match="this model samples nothing"):
        ask(recipe)
    with pytest.raises(UserError, match="a tokenizer does not sample"):
        recipe.sample(recipe.trained, SampleRequest(), Noise(0, (0,)))


# The codebook


def book(codes: int = 16, **changes: Any) -> Codebook:
    torch.manual_seed(0)
    return Codebook(replace(CodebookShape(codes, 4, 0.9, 2, 0.5), **changes))


def tokens(step: int, count: int = 4, each: int = 8) -> tuple[Batch, Tensor, Context]:
    draws = tuple(range(step * count, (step + 1) * count))
    source = torch.Generator().manual_seed(step)
    directions = torch.nn.functional.normalize(
        torch.randn(count, each, 4, generator=source, dtype=torch.float64), dim=-1
    )
    batch = Batch({}, ("row",) * count, draws, torch.ones(count, dtype=torch.float64))
    return batch, directions, Context(0, draws, "phase0", step=step)


def moved(net: Codebook, step: int) -> Mapping[str, Tensor]:
    batch, directions, around = tokens(step)
    sums = net.sums(batch, directions, net.look_up(directions), around)
    net.move(sums)
    return sums


def test_codes_begin_as_tokens_and_each_is_offered_one() -> None:
    net = book().double()
    before = net.codes.clone()
    moved(net, 0)
    assert torch.allclose(net.codes, before) and int(net.rows) == 4
    sums = moved(net, 1)
    assert sums["spare"][:, 0].tolist() == [1.0] * 16
    _, directions, _ = tokens(1)
    likest = (net.codes @ directions.flatten(0, 1).T).amax(1)
    assert torch.allclose(likest, torch.ones_like(likest))
    assert int(net.resets) == 16


def test_then_they_are_means_and_then_moving_averages() -> None:
    net = book(dead=0.0).double()
    for step in (0, 1):
        moved(net, step)
    sums = moved(net, 2)
    got = sums["counts"] > 0
    means = torch.nn.functional.normalize(sums["totals"], dim=1)
    assert torch.allclose(net.codes[got], means[got])
    moved(net, 3)
    before = net.totals.clone()
    sums = moved(net, 4)
    assert torch.allclose(net.totals, 0.9 * before + 0.1 * sums["totals"])


def test_the_oracle_chooses_and_moves_alike() -> None:
    net = book(dead=0.0, kmeans=0).double()
    for step in (0, 1):
        moved(net, step)
    other = VectorQuantize(
        dim=4, codebook_size=16, use_cosine_sim=True, decay=0.9, kmeans_init=False,
        threshold_ema_dead_code=0,
    )  # fmt: skip
    inner = other._codebook
    inner.embed.data.copy_(net.codes.float()[None])
    inner.embed_avg.data.copy_(net.totals.float()[None])
    inner.cluster_size.data.copy_(net.used.float()[None])
    other.train()
    for step in range(2, 7):
        batch, directions, around = tokens(step)
        numbers = net.look_up(directions)
        _, theirs, _ = other(directions.float())
        assert torch.equal(numbers, theirs)
        net.move(net.sums(batch, directions, numbers, around))
        assert torch.allclose(net.codes.float(), inner.embed[0], atol=1e-5)


def test_dead_codes_become_tokens_and_come_to_life() -> None:
    net = book(dead=0.4, decay=0.5, kmeans=0).double()
    for step in range(3):
        moved(net, step)
    resets = int(net.resets)
    net.totals[3] = torch.tensor([-1.0, 0, 0, 0])
    net.codes[3] = net.totals[3]
    net.used[3] = 1e-3
    sums = moved(net, 3)
    if sums["counts"][3] == 0:
        assert torch.allclose(
            net.codes[3], torch.nn.functional.normalize(sums["spare"][3, 1:], dim=0)
        )
        assert float(net.used[3]) == 1.0 and int(net.resets) > resets
    assert 1 <= float(net.perplexity()) <= 16


def test_what_moves_it_does_not_depend_on_who_saw_what() -> None:
    net = book().double()
    moved(net, 0)
    batch, directions, around = tokens(1)
    numbers = net.look_up(directions)
    whole = net.sums(batch, directions, numbers, around)
    halves = []
    for begin, end in ((0, 1), (1, 4)):
        own = Context(0, batch.draws[begin:end], "phase0", step=1)
        some = part(batch, begin, end)
        halves.append(net.sums(some, directions[begin:end], numbers[begin:end], own))
    for name, value in whole.items():
        assert torch.allclose(halves[0][name] + halves[1][name], value, rtol=1e-12), name


# Priors


@pytest.mark.parametrize("module, config", [(autoregressive, LIKELY), (masked, UNMASKED)])
def test_losses_are_the_rows_own_and_begin_at_the_uniform_one(module: Any, config: Any) -> None:
    recipe = prior(module, config)
    loss, _ = recipe.loss(rows(), context())
    alone, _ = recipe.loss(part(rows(), 4, 5), context((4,)))
    assert loss.shape == (6,) and torch.allclose(loss[4:5], alone, rtol=1e-4)
    assert list(recipe.frozen) == ["tokenizer"]
    for parameter in recipe.trained["prior"].head.parameters():
        torch.nn.init.zeros_(parameter)
    loss, _ = recipe.loss(rows(), context())
    assert torch.allclose(loss, torch.full((6,), 12.0).log(), atol=1e-5)


def test_a_token_is_told_by_those_before_it_alone() -> None:
    net = prior(autoregressive, LIKELY).trained["prior"]
    codes = torch.randn(1, 32, 4)
    changed = codes.clone()
    changed[:, 10] += 1
    first, second = net(codes), net(changed)
    assert torch.allclose(first[:, :11], second[:, :11], atol=1e-6)
    assert not torch.allclose(first[:, 11:], second[:, 11:], atol=1e-4)


def test_dropped_attention_is_on_average_what_it_was_and_sees_no_later_token() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 7, 4, dtype=torch.float64)
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    shares = autoregressive.causal(q, k)
    torch.testing.assert_close(shares @ v, plain)
    kept = context(tuple(range(4000))).keep((2, 7, 7), 0.7, "attention 0").double()
    mean = (shares * kept @ v).mean(0)
    torch.testing.assert_close(mean, plain[0], atol=0.1, rtol=0)
    assert not torch.allclose(shares * kept[0] @ v, plain)
    layer = autoregressive.Layer(8, 2)
    x, drop = torch.randn(4000, 7, 8), autoregressive.Drop(attention=kept.float())
    other = x.clone()
    other[:, 5] += 1
    assert torch.equal(layer(x, drop)[:, :5], layer(other, drop)[:, :5])


def test_memory_changes_no_token_and_draws_are_by_number() -> None:
    recipe = prior(autoregressive, LIKELY)
    request, like = ask(recipe), torch.zeros(2, 4)
    found = recipe.drawn(recipe.trained, request, Noise(0, (0, 1)), like)
    again = recipe.drawn(recipe.trained, request, Noise(0, (0, 1)), like, remembering=False)
    alone = recipe.drawn(recipe.trained, request, Noise(0, (1,)), like[:1])
    assert torch.equal(found, again) and torch.equal(found[1:], alone)
    assert len(found.unique()) > 4
    images = recipe.sample(recipe.trained, request, Noise(0, (0, 1)))
    film = recipe.sample(recipe.trained, replace(request, what="frames"), Noise(0, (0, 1)))
    assert images.shape == (2, 3, 16, 16) and film.shape == (2, 3, 4, 16, 16)
    assert torch.equal(film[:, :, -1], images)


@torch.no_grad()
def test_memory_is_five_times_faster_at_576_tokens() -> None:
    """Without it, every 24th token is made; all take as long as those 24 times."""
    net = autoregressive.TokenTransformer(autoregressive.Config(), (9, 8, 8), 64, 4)
    codes = torch.randn(1, 576, 4)
    memories = net.memories(codes[:, 0])
    begin = time.process_time()
    for place in range(576):
        last = net.next(codes[:, place - 1], place, memories)
    remembered = time.process_time() - begin
    assert torch.allclose(last, net(codes)[:, -1], atol=1e-4)
    begin = time.process_time()
    for place in range(23, 576, 24):
        net(codes[:, : place + 1])
    assert 24 * (time.process_time() - begin) > 5 * remembered


def test_what_is_masked_at_each_step() -> None:
    assert [masked_count(step, 18, 256) for step in range(18)] == [
        256, 255, 252, 247, 241, 232, 222, 210, 196, 181, 165, 147, 128, 108, 88, 66, 44, 22,
    ]  # fmt: skip
    recipe = prior(masked, UNMASKED)
    shown = recipe._masked(context(tuple(range(500)))).sum(1)
    assert set(shown.tolist()) == {masked_count(step, 5, 32) for step in range(5)}


@pytest.mark.parametrize("steps", [1, 5, 9])
def test_masked_sampling_takes_exactly_its_steps(steps: int) -> None:
    recipe, masked_before = prior(masked, UNMASKED), []
    net = recipe.trained["prior"]
    assert isinstance(net, MaskedTransformer)
    net.register_forward_pre_hook(lambda _, given: masked_before.append((given[0] == 12).sum(1)))
    request = ask(recipe, steps=steps)
    both = recipe.sample(recipe.trained, request, Noise(0, (0, 1)))
    counts = [masked_count(step, steps, 32) for step in range(steps)]
    assert [found.tolist() for found in masked_before] == [[count] * 2 for count in counts]
    one = recipe.sample(recipe.trained, request, Noise(0, (1,)))
    assert torch.allclose(one[0], both[1], atol=1e-5)


@pytest.mark.parametrize(
    "config, clip, said",
    [
        (replace(SMALL, frames=5), CLIP, "tokens of 2 frames"),
        (SMALL, Clip(1, 18, 18), "tokens of 4 pixels"),
        (replace(SMALL, codes=0), CLIP, "model.codes=0 is below 1"),
        (replace(SMALL, patch=0), CLIP, "model.patch=0 is below 1"),
        (replace(SMALL, patch_frames=0), CLIP, "model.patch_frames=0 is below 1"),
        (replace(SMALL, adversarial=True), Clip(1, 36, 36), "halves it down to 4.5"),
        (replace(SMALL, decay=1.0), CLIP, "model.decay=1.0: expected"),
    ],
)
def test_what_cannot_be_built(config: Config, clip: Clip, said: str) -> None:
    with pytest.raises(UserError, match=said):
        built(config, clip)


def test_what_cannot_be_built_on_top() -> None:
    with pytest.raises(UserError, match="a multiple of both"):
        prior(autoregressive, replace(LIKELY, width=20))
    with pytest.raises(UserError, match="was trained on single images of 16x16"):
        given = Given(Clip(1, 32, 32), {"first_stage": built()})
        masked.build(UNMASKED, given)
