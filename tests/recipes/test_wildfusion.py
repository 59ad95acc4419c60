"""WildFusion's autoencoder: its losses, its views, its critics."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from hvdm.data.depth import Placing
from hvdm.errors import UserError
from hvdm.recipe import Clip
from hvdm.recipes.wildfusion.asking import batch_of
from hvdm.recipes.wildfusion.critics import PAIR, made_pair, real_pair
from hvdm.recipes.wildfusion.networks import reduced
from hvdm.recipes.wildfusion.scene import middle, radians
from tests.recipes.wild import SIDE, built, context, rows


def turned_by(yaw: float, pitch: float = 0.0, count: int = 2) -> torch.Tensor:
    return torch.tensor([radians(yaw, pitch)] * count)


def test_losses_give_one_value_for_each_row() -> None:
    recipe = built()
    assert [phase.net for phase in recipe.phases] == ["critics", "autoencoder"]
    loss, logs, sums = recipe.autoencoder_loss(rows(3), context(count=3))
    assert loss.shape == (3,) and all(value.shape == (3,) for value in logs.values())
    assert set(logs) >= {"l1", "depth_2d", "depth_3d", "kl", "score", "depth_score", "psnr"}
    assert float(sums["rows"]) == 3
    loss, _ = recipe.critics_loss(rows(3), context(step=1, count=3))
    assert loss.shape == (3,) and bool(loss.isfinite().all())


def test_a_row_does_not_know_the_others() -> None:
    recipe, together = built(), rows(2)
    loss, _, _ = recipe.autoencoder_loss(together, context())
    first = {name: value[:1] for name, value in together.fields.items()}
    alone = type(together)(first, ("row",), (0,), torch.ones(1))
    own, _, _ = recipe.autoencoder_loss(alone, context(count=1))
    assert torch.allclose(own[0], loss[0], rtol=1e-5)


def test_the_input_view_does_not_depend_on_the_novel_one() -> None:
    recipe = built()
    recipe.config = replaced(recipe, yaw=35.0, first_yaw=35.0)
    _, wide, _ = recipe.autoencoder_loss(rows(), context())
    recipe.config = replaced(recipe, yaw=1.0, first_yaw=1.0, pitch=0.1)
    _, narrow, _ = recipe.autoencoder_loss(rows(), context())
    for name in ("l1", "perceptual", "depth_2d", "depth_3d", "kl"):
        assert torch.equal(wide[name], narrow[name])
    assert not torch.equal(wide["score"], narrow["score"])


def replaced(recipe: Any, **changes: Any) -> Any:
    return replace(recipe.config, **changes)


def test_a_novel_view_that_is_not_turned_is_the_input() -> None:
    recipe = built()
    planes = recipe.net.decoder(recipe.net.encoded(rows())[0])
    plain, same = recipe.net.look(planes), recipe.net.look(planes, turned_by(0))
    assert all(torch.equal(a, b) for a, b in zip(plain, same, strict=True))
    assert not torch.equal(recipe.net.look(planes, turned_by(20)).image, plain.image)


def test_the_picture_critic_sees_six_channels_made_by_one_rule() -> None:
    recipe, image = built(), torch.rand(2, 3, SIDE, SIDE)
    assert recipe.trained["critics"].image.stem.in_channels == PAIR == 6
    assert torch.equal(real_pair(image, 8), made_pair(image, reduced(image, 8)))
    assert real_pair(image, 8).shape == (2, 6, SIDE, SIDE)
    flat = torch.full_like(image, 0.25)
    assert torch.allclose(real_pair(flat, 8), flat.repeat(1, 2, 1, 1))


def test_critics_begin_when_they_are_told_to_and_the_view_widens() -> None:
    recipe = built(critics_from=5, critics_ramp=4)
    assert not recipe.judged(4) and recipe.judged(5)
    assert recipe.phases[0].when is not None and not recipe.phases[0].when(4)
    _, before, _ = recipe.autoencoder_loss(rows(), context(step=4))
    _, after, _ = recipe.autoencoder_loss(rows(), context(step=5))
    assert "score" not in before and "score" in after
    assert [recipe.ramp(step) for step in (5, 6, 8, 20)] == [0.25, 0.5, 1.0, 1.0]
    early, late = (built(yaw_steps=10).novel(context(step)) for step in (0, 10))
    assert torch.allclose(late[:, 0] * 10, early[:, 0] * 35) and torch.equal(
        early[:, 1], late[:, 1]
    )
    assert float(late[:, 0].abs().max()) <= math.radians(35)


def test_the_slope_is_penalized_now_and_then() -> None:
    recipe = built()
    for penalties in ((5.0, 0.0), (0.0, 5.0)):
        recipe.config = replaced(recipe, image_penalty=penalties[0], depth_penalty=penalties[1])
        due, _ = recipe.critics_loss(rows(), context(step=2))
        recipe.config = replaced(recipe, penalty_every=1000)
        without, _ = recipe.critics_loss(rows(), context(step=2))
        assert bool((due > without).all())
        recipe.config = replaced(recipe, penalty_every=2)


def test_a_slope_that_is_looked_at_less_often_weighs_as_much() -> None:
    recipe = built(image_penalty=500.0, depth_penalty=100.0)
    found = {}
    for every in (1000, 2, 4):
        recipe.config = replaced(recipe, penalty_every=every)
        found[every] = recipe.critics_loss(rows(), context(step=4))[0]
    twice, plain = found[2] - found[1000], found[1000]
    assert torch.allclose(found[4] - plain, 2 * twice, rtol=1e-3) and bool((twice > 0.01).all())


def test_cameras_are_exact_where_networks_are_not() -> None:
    recipe = built()
    draw = middle(recipe.camera, torch.zeros(2))
    plain = recipe.net.scene.at(turned_by(20, 10), draw)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = recipe.net.scene.at(turned_by(20, 10), draw)
        assert recipe.seen(PLANES.bfloat16(), context(), None, "x").places.dtype == torch.float32
    assert torch.equal(mixed.directions, plain.directions)
    assert torch.equal(mixed.origins, plain.origins)


PLANES = torch.zeros(2, 3, 8, 8, 8)


def test_depth_is_placed_before_its_middle_is_taken() -> None:
    """As `hvdm data derive depth` and the loader do, one after the other."""
    wide = torch.linspace(10, 20, SIDE * 3 * SIDE).reshape(3 * SIDE, SIDE).mT.contiguous()
    image = torch.zeros(SIDE, SIDE, 3, dtype=torch.uint8)
    own = batch_of(image, wide, Placing(), "image", SIDE)["depth"][0]
    assert torch.equal(own, torch.from_numpy(Placing().placed(wide.numpy()))[:, SIDE : 2 * SIDE])
    assert 2.5 < float(own.min()) < float(own.max()) < 3.6


def test_a_plane_is_dropped_in_training_and_never_when_it_is_looked_at() -> None:
    recipe = built(plane_kept=0.5)
    planes, _, _ = recipe.coded(rows(), context())
    gone = (planes == 0).flatten(3).all(-1)  # B 3 C
    assert bool(gone[:, 0].any()) and not bool(gone[:, 1:].any())
    latent = recipe.coder.encode(recipe.trained, rows())
    assert not bool((recipe.coder.planes(recipe.trained, latent) == 0).flatten(3).all(-1).any())


def test_what_is_built_on_the_latent_finds_it_of_size_one() -> None:
    recipe = built()
    for step in range(4):
        _, _, sums = recipe.autoencoder_loss(rows(4), context(step, count=4))
        recipe.remember(sums)
    latent = recipe.coder.encode(recipe.trained, rows(4)).detach()
    assert float(latent.square().mean()) == pytest.approx(1, rel=1e-3)
    again = recipe.coder.decode(recipe.trained, latent)
    planes = recipe.net.decoder(recipe.net.encoded(rows(4))[0])
    expected = recipe.net.look(planes).image.clamp(-1, 1)
    assert torch.allclose(again["video"][:, :, 0], expected, atol=1e-5)
    assert again["depth"].shape == (4, SIDE, SIDE)


def test_without_depth_it_says_so() -> None:
    batch = rows()
    del batch.fields["depth"]  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="reads depth beside the picture"):
        built().coder.encode(built().trained, batch)


def test_nothing_drawn_looks_the_same_twice_and_rays_are_of_the_middle() -> None:
    recipe = built()
    draw = middle(recipe.camera, torch.zeros(2))
    assert float(draw.coarse.min()) == float(draw.coarse.max()) == 0.5
    assert draw.fine[0, 0].tolist() == [0.125, 0.375, 0.625, 0.875]


BAD = [
    ({"stride": 3}, "model.stride=3: a power of 2"),
    ({"rays": 4}, "model.rays=4: doubled 1 times"),
    ({"inner": 3.0}, "model.inner=3.0: above 0, below"),
    ({"features": 2}, "model.features is at least 3"),
    ({"plane_kept": 0.0}, "model.plane_kept=0.0: a share"),
    ({"penalty_every": 0}, "model.penalty_every=0: at least 1"),
    ({"heads": 3}, "model.heads=3: it has to divide model.width=16"),
    ({"doubling": ()}, "model.enlarging and model.doubling have"),
    ({"trunk": (8,) * 5}, "data.height=16: 5 stages"),
]


@pytest.mark.parametrize("changes, words", BAD)
def test_one_line_says_what_does_not_fit(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        built(**changes)


def test_pictures_are_square_and_single() -> None:
    with pytest.raises(UserError, match="of square pictures; set data.frames=1"):
        built(Clip(2, 16, 16))
