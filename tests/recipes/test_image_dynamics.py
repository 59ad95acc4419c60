"""Image dynamics: what its stages promise."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hvdm.config import DataConfig
from hvdm.data.derivation import saved
from hvdm.data.fields import RawSample
from hvdm.errors import UserError
from hvdm.media.h264 import encode_h264
from hvdm.ops.spectrum import as_channels, motion_at, motion_of, spectrum_of
from hvdm.recipe import AnotherRun, Batch, Clip, Context, Given, Noise, SampleRequest
from hvdm.recipes.image_dynamics import autoencoder, coordinated, diffusion, generation, renderer
from hvdm.recipes.image_dynamics.generation import (
    FilmOptions,
    MotionOptions,
    TouchOptions,
    WrapOptions,
    wrap_loss,
)

CLIP = Clip(1, 16, 24)
CODER = autoencoder.Config(bins=5, frames=12, width=8, multipliers=(1, 2), blocks=1, slices=2)
SMALL = diffusion.Config(
    bins=5, width=8, multipliers=(1, 2), blocks=1, attending=(1,), picture_width=4,
    picture_channels=3, slices=2, sampling_steps=3,
)  # fmt: skip


def coder(config: autoencoder.Config = CODER) -> Any:
    torch.manual_seed(0)
    scales = {"scales": [20.0, 10.0, 6.0, 4.0, 3.0]}
    return autoencoder.build(config, Given(CLIP, from_data=scales))


def stage_a(config: diffusion.Config = SMALL) -> Any:
    torch.manual_seed(1)
    return diffusion.build(config, Given(CLIP, {"autoencoder": coder()}))


def stage_b() -> Any:
    below = stage_a()
    for own in below.trained.parameters():
        torch.nn.init.normal_(own, std=0.2)
    torch.manual_seed(2)
    return coordinated.build(SMALL, Given(CLIP, {"diffusion": below}))


def rows(count: int = 3) -> Batch:
    torch.manual_seed(3)
    motion = 2 * torch.randn(count, 12, 2, 16, 24)
    found = spectrum_of(motion - motion[:, :1], 5)
    video = torch.randint(256, (count, 1, 16, 24, 3), dtype=torch.uint8)
    fields = {"spectrum": as_channels(found).unflatten(2, (2, 2)), "video": video}
    return Batch(fields, ("row",) * count, tuple(range(count)), torch.ones(count))


def context(count: int = 3, step: int = 0) -> Context:
    return Context(0, tuple(range(count)), "phase0", step=step)


def told_picture() -> Tensor:
    return torch.randint(256, (16, 24, 3), dtype=torch.uint8)


def test_all_slices_get_their_turn_and_moments_are_of_their_frequency() -> None:
    recipe = coder()
    loss, logs, sums = recipe.loss(rows(), context())
    assert loss.shape == (3,) and set(logs) == {"l1", "slope", "kl"}
    assert float(sums["count"].sum()) == 6
    chosen = autoencoder.slices_of(context(), 5, 5, "k").sort(1).values
    assert torch.equal(chosen, torch.arange(5).expand(3, -1))
    batch = rows()
    padded = Batch(batch.fields, batch.keys, batch.draws, torch.tensor([1.0, 1.0, 0.0]))
    less = recipe.loss(padded, context())[2]
    two = {name: value[:2] for name, value in batch.fields.items()}
    alone = recipe.loss(Batch(two, ("a", "b"), (0, 1), torch.ones(2)), context(2))[2]
    assert all(torch.allclose(less[name], alone[name]) for name in less)


def test_latents_are_whitened_by_what_the_loss_measured() -> None:
    recipe = coder(replace(CODER, slices=5))
    for step in range(3):
        recipe.move(recipe.loss(rows(), context(step=step))[2])
    channels = rows()["spectrum"].flatten(2, 3)
    every = torch.arange(5).expand(3, -1)
    latent = recipe.encode(recipe.trained, channels, every)
    assert torch.allclose(latent.mean((0, 3, 4)), torch.zeros(5, 4), atol=1e-4)
    assert torch.allclose(latent.square().mean((0, 3, 4)), torch.ones(5, 4), atol=0.02)


def test_plain_scaling_divides_by_the_size() -> None:
    recipe = coder(replace(CODER, scaling="plain"))
    channels = torch.ones(1, 5, 4, 16, 24)
    found = recipe.normalised(channels)
    assert torch.allclose(found[0, 0, :, 0, 0], torch.tensor([1 / 24, 1 / 16] * 2))
    assert torch.allclose(recipe.denormalised(found), channels)
    assert torch.allclose(coder().denormalised(coder().normalised(channels)), channels, atol=1e-5)


def test_the_slope_term_is_of_four_scales() -> None:
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    assert float(autoencoder.slopes(ramp)) == 1 + 2 + 4 + 8
    assert float(autoencoder.slopes(torch.ones(1, 4, 16, 16))) == 0


@pytest.mark.parametrize("prediction", ["slices", "volume"])
def test_the_diffusion_begins_by_predicting_nothing(prediction: Any) -> None:
    recipe = stage_a(replace(SMALL, prediction=prediction))
    loss, _ = recipe.loss(rows(), context())
    count = 5 if prediction == "volume" else 2
    noise = context().randn((count, *recipe.below.latent_shape), "noise")
    assert torch.allclose(loss, noise.square().mean((1, 2, 3, 4)))


def test_rows_without_the_picture_do_not_see_it() -> None:
    recipe = stage_a(replace(SMALL, untold=1.0))
    for own in recipe.trained.parameters():
        torch.nn.init.normal_(own, std=0.1)
    batch = rows()
    other = {**batch.fields, "video": 255 - batch["video"]}
    changed = Batch(other, batch.keys, batch.draws, batch.weight)
    assert torch.equal(recipe.loss(batch, context())[0], recipe.loss(changed, context())[0])
    recipe.config = replace(SMALL, untold=0.0)
    assert not torch.equal(recipe.loss(batch, context())[0], recipe.loss(changed, context())[0])


def test_stage_b_begins_as_stage_a_to_the_bit_and_trains_the_attention_alone() -> None:
    above = stage_b()
    below = stage_a()
    below.trained.load_state_dict(above.trained.state_dict(), strict=False)
    torch.manual_seed(4)
    x = torch.randn(2, 5, *above.below.latent_shape)
    picture, t = torch.randn(2, 3, 16, 24), torch.tensor([7, 700])
    with torch.no_grad():
        apart = below.predict(below.trained, x, t, picture, True)
        assert torch.equal(above.predict(above.trained, x, t, picture, True), apart)
    assert float(apart.abs().max()) > 0.01
    part = above.phases[0].part
    assert part == ("unet.across.",)
    moving = [name for name, _ in above.trained["denoiser"].named_parameters()
              if name.startswith(part)]  # fmt: skip
    assert len(moving) == 8 * 6


def test_frequencies_hear_of_each_other_only_by_the_attention() -> None:
    above = stage_b()
    torch.manual_seed(4)
    x = torch.randn(1, 5, *above.below.latent_shape)
    other = x.clone()
    other[:, 2] += 1
    picture, t = torch.randn(1, 3, 16, 24), torch.tensor([300])

    def changed() -> list[bool]:
        both = [above.predict(above.trained, one, t, picture, True) for one in (x, other)]
        return [not torch.equal(both[0][:, k], both[1][:, k]) for k in range(5)]

    assert changed() == [False, False, True, False, False]
    for block in above.trained["denoiser"].unet.across:
        torch.nn.init.normal_(block.out.weight, std=0.2)
    assert changed() == [True] * 5


def test_other_networks_than_stage_a_are_refused() -> None:
    with pytest.raises(UserError, match=r"model.width=16, and stage A has 8"):
        coordinated.build(replace(SMALL, width=16), Given(CLIP, {"diffusion": stage_a()}))
    with pytest.raises(UserError, match="no diffusion of single frequencies"):
        below = stage_a(replace(SMALL, prediction="volume"))
        coordinated.build(SMALL, Given(CLIP, {"diffusion": below}))
    with pytest.raises(UserError, match="model.bins=4, and the autoencoder has 5"):
        stage_a(replace(SMALL, bins=4))


# Sampling


def sampled(recipe: Any, what: str, options: Any, draws: tuple[int, ...] = (0, 1)) -> Any:
    request = SampleRequest(what, None, options)
    with torch.no_grad():
        return recipe.sample(recipe.trained, request, Noise(0, draws))


def test_a_sample_is_of_its_draw_and_magnified_as_asked() -> None:
    recipe, image = stage_b(), told_picture()
    both = sampled(recipe, "spectrum", MotionOptions(image))
    assert both.shape == (2, 5, 2, 16, 24) and both.is_complex()
    one = sampled(recipe, "spectrum", MotionOptions(image), (1,))
    assert torch.allclose(one[0], both[1], atol=1e-4)
    twice = sampled(recipe, "spectrum", MotionOptions(image, magnify=2.0))
    assert torch.equal(twice, 2 * both)
    with pytest.raises(UserError, match="image= is missing; what=image moves a picture"):
        sampled(recipe, "image", FilmOptions())


class Kept:
    """A rendering that gives the motion instead."""

    def film(self, picture: Tensor, motion: Tensor, whole: Tensor, noise: Noise) -> Tensor:
        return motion


def test_half_the_speed_is_the_series_at_half_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "rendering_of", lambda run, clip: Kept())
    recipe, image = stage_b(), told_picture()
    slow = sampled(recipe, "image", FilmOptions(image, speed=0.5), (0,))
    plain = sampled(recipe, "image", FilmOptions(image), (0,))
    found = sampled(recipe, "spectrum", MotionOptions(image), (0,))
    assert slow.shape[1] == 24 and torch.allclose(slow[:, ::2], plain, atol=1e-5)
    assert torch.allclose(slow, motion_of(2 * found, 24), atol=1e-5)


def test_what_cannot_be_asked_of_motion() -> None:
    recipe, image = stage_b(), told_picture()
    for kind, asked, said in (
        ("image", FilmOptions(image, speed=0.0), "speed=0.0: it must be above 0"),
        ("image", FilmOptions(image, speed=1000.0), "leave a frame of 12"),
        ("touch", TouchOptions(image, rate=0.0), "rate=0.0: it must be above 0"),
        ("touch", TouchOptions(image, stiffness=-1.0), "stiffness=-1.0: it must be above 0"),
    ):
        with pytest.raises(UserError, match=said):
            sampled(recipe, kind, asked, (0,))


def test_motion_of_another_length_is_refused() -> None:
    data = DataConfig(path="clips", frames=1, height=16, width=24)
    (field,) = autoencoder.reads(CODER, data)
    stored = {"spectrum.npy": saved(np.zeros((5, 2, 2, 16, 24), np.float16))}
    assert field.decode(RawSample(stored, "a", {"motion_frames": 12}), None).shape[0] == 5
    with pytest.raises(UserError, match=r"model.frames=12, and the motion of a is of 16 frames"):
        field.decode(RawSample(stored, "a", {"motion_frames": 16}), None)


def test_stage_b_is_checked_as_stage_a_is() -> None:
    with pytest.raises(UserError, match="model.untold=3"):
        coordinated.build(replace(SMALL, untold=3.0), Given(CLIP, {"diffusion": stage_a()}))


def test_a_film_begins_where_its_motion_does() -> None:
    """Where nothing moves, the picture stays as it is."""
    recipe, image = stage_b(), told_picture()
    still = sampled(recipe, "image", FilmOptions(image, magnify=0.0), (0,))
    expected = image.permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
    assert torch.allclose(still, expected.expand_as(still), atol=1e-5)


def test_guidance_brings_the_end_to_the_beginning() -> None:
    recipe, image = stage_b(), told_picture()

    def apart(pull: float) -> float:
        options = WrapOptions(image, pull=pull, again=1, guidance=0.0)
        made = Noise(0, (0, 1))
        request = SampleRequest("loop", 20, options)
        from hvdm.recipes.image_dynamics.generation import Generation, Settings

        with torch.no_grad():
            found = Generation(recipe, recipe.trained, Settings(20, 0.0, 0.0), request, made)
            return float(wrap_loss(found.spectrum(), 12).mean())

    assert apart(20.0) < 0.8 * apart(0.0)


def test_the_page_holds_the_picture_and_the_modes() -> None:
    pages = sampled(stage_b(), "touch", TouchOptions(told_picture(), rate=4.0), (0,))
    assert len(pages) == 1 and "data:image/png;base64," in pages[0]
    assert '"hertz":[0.3333333333333333,0.6666666666666666,1.0,' in pages[0]
    assert "/*DATA*/" not in pages[0] and "http" not in pages[0].replace("http-equiv", "")


# The renderer

DRAWS = renderer.Config(
    widths=(4, 8), blocks=(1, 1), style=6, perceptual="untrained", pixel_weight=1.0
)


def drawing(config: renderer.Config = DRAWS) -> Any:
    torch.manual_seed(0)
    recipe: Any = renderer.build(config, Given(Clip(6, 16, 24)))
    for own in recipe.trained.parameters():
        if own.dim() > 1 and not own.any():
            torch.nn.init.normal_(own, std=0.3)
    return recipe


def pairs() -> Batch:
    torch.manual_seed(5)
    video = torch.randint(256, (2, 6, 16, 24, 3), dtype=torch.uint8)
    flow = 2 * torch.randn(2, 6, 2, 16, 24)
    return Batch({"video": video, "flow": flow}, ("a", "b"), (0, 1), torch.ones(2))


def test_the_renderer_learns_from_one_pair_of_each_row() -> None:
    recipe, seen = drawing(), []
    recipe.trained["renderer"].register_forward_hook(lambda net, given, made: seen.append(given))
    loss, logs = recipe.loss(pairs(), context(2))
    assert loss.shape == (2,) and set(logs) == {"l1", "perceptual"}
    loss.sum().backward()
    assert all(own.grad is not None for own in recipe.trained.parameters())
    (picture, flow, _, _, _) = seen[0]
    assert torch.equal(picture, pairs().pixels()[:, :, 0])
    assert all(any(torch.equal(flow[i], one) for one in pairs()["flow"][i, 1:]) for i in (0, 1))


@pytest.mark.parametrize("start", [0, 3])
def test_windows_begin_where_the_motion_is_told_from(start: int) -> None:
    flow = np.arange(8, dtype=np.float32)[:, None, None, None] * np.ones((2, 16, 24), np.float32)
    raw = RawSample({"flow.npy": saved(flow)}, "a", {}, total=8)
    data = DataConfig(path="clips", frames=4, height=16, width=24)
    field = next(one for one in renderer.reads(DRAWS, data) if one.name == "flow")
    found = field.decode(raw, range(start, start + 4))
    assert found[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_the_picture_is_the_first_frame_of_a_film() -> None:
    film = (
        np.zeros((8, 16, 24, 3), np.uint8)
        + np.arange(0, 240, 30, dtype=np.uint8)[:, None, None, None]
    )
    raw = RawSample({"mp4": encode_h264(film, 8)}, "a", {}, total=8)
    data = DataConfig(path="clips", frames=1, height=16, width=24)
    found = diffusion.reads(SMALL, data)[0].decode(raw, range(5, 6))
    assert found.shape == (1, 16, 24, 3) and found.mean() < 5


def test_ablations_draw_otherwise() -> None:
    made = []
    for changed in ({}, {"splatting": "average"}, {"levels": "single"}):
        recipe = drawing(replace(DRAWS, **changed))
        batch = pairs()
        with torch.no_grad():
            made.append(
                recipe.film(batch.pixels()[:, :, 0], batch["flow"], batch["flow"], Noise(0, (0, 1)))
            )
    assert made[0].shape == (2, 3, 6, 16, 24)
    assert not torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_vectors_shrink_with_the_plane() -> None:
    flow = torch.full((1, 2, 16, 24), 4.0)
    assert torch.equal(renderer.at_size(flow, (8, 12)), torch.full((1, 2, 8, 12), 2.0))


def test_a_run_of_another_kind_or_size_does_not_render() -> None:
    image = told_picture()
    for found, said in ((coder(), "is no renderer"), (drawing(), None)):
        options = FilmOptions(image, renderer=AnotherRun("runs/x", found))
        if said is None:
            film = sampled(stage_b(), "image", options, (0,))
            assert film.shape == (1, 3, 12, 16, 24)
            continue
        with pytest.raises(UserError, match=said):
            sampled(stage_b(), "image", options, (0,))


def test_a_flipped_picture_and_spectrum_make_the_flipped_film() -> None:
    from hvdm.recipes.image_dynamics.rendering import Thrown

    batch = rows(1)
    picture = batch.pixels()[:, :, 0].double()
    found = spectrum_of(torch.randn(1, 12, 2, 16, 24).double(), 5)
    turned = found.flip(-1) * torch.tensor([-1.0, 1.0])[:, None, None]
    times, noise = torch.arange(12), Noise(0, (0,))
    motion, other = motion_at(found, 12, times), motion_at(turned, 12, times)
    straight = Thrown().film(picture, motion, motion, noise)
    mirrored = Thrown().film(picture.flip(-1), other, other, noise)
    assert np.allclose(mirrored.flip(-1), straight, atol=1e-6)
