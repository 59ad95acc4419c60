import dataclasses

import pytest
import torch

from hvdm.errors import UserError
from hvdm.recipe import Batch, Clip, Context, Given, as_batch
from hvdm.recipes.hvdm import diffusion
from hvdm.recipes.hvdm.critics import feature_distance, hinge, says_real
from hvdm.recipes.hvdm.pvdm_autoencoder import Config, build

TINY = Config(
    patch=4,
    width=16,
    depth=1,
    heads=2,
    head_dim=4,
    projection_depth=1,
    projection_heads=1,
    projection_head_dim=4,
    projection_hidden=8,
    perceptual="untrained",
    critic_width=4,
    critic_layers=2,
)
CLIP = Clip(4, 8, 16)
ADVERSARIAL = dataclasses.replace(TINY, adversarial=True)


def tiny(config=TINY, clip=CLIP):
    torch.manual_seed(0)
    return build(config, Given(clip))


def rows(draws, frames=4):
    videos = [
        torch.randint(0, 256, (frames, 8, 16, 3), generator=torch.Generator().manual_seed(d))
        for d in draws
    ]
    fields = {"video": torch.stack(videos).to(torch.uint8)}
    return Batch(fields, tuple(map(str, draws)), tuple(draws), torch.ones(len(draws)))


def count(net):
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts_of_the_paper():
    with torch.device("meta"):
        recipe = build(Config(adversarial=True), Given(Clip(16, 256, 256)))
    nets = recipe.trained
    encoder = nets["autoencoder"].encoder
    assert count(encoder.planes.patchify) + count(encoder.planes.backbone) == 26_865_024
    assert count(nets["autoencoder"].decoder.pixels.backbone) == 26_790_912
    assert count(nets["autoencoder"]) == 62_064_399
    assert count(nets["frame_critic"]) == 2_766_529
    assert count(nets["clip_critic"]) == 11_057_857


@pytest.mark.parametrize("width, parameters", [(256, 528_273_412), (128, 132_163_588)])
def test_parameter_counts_of_its_diffusion(width, parameters):
    clip = Clip(16, 256, 256)
    with torch.device("meta"):
        stage = build(Config(), Given(clip))
        recipe = diffusion.build(diffusion.Config(width=width), Given(clip, {"first_stage": stage}))
    assert recipe.latent_shape == (4, 2048)
    assert count(recipe.trained["denoiser"]) == parameters


@pytest.mark.parametrize(
    "clip, positions",
    [
        (Clip(16, 256, 256), 2048),
        (Clip(16, 128, 128), 768),
        (Clip(16, 64, 64), 320),
        (Clip(8, 32, 32), 80),
        (Clip(5, 64, 128), 8 * 16 + 5 * 16 + 5 * 8),
    ],
)
def test_shapes_at_the_paper_s_patch(clip, positions):
    with torch.device("meta"):
        recipe = build(dataclasses.replace(TINY, patch=8), Given(clip))
        latent = recipe.coder.encode(recipe.trained, as_batch(torch.empty(1, *clip.shape)))
        assert latent.shape[1:] == recipe.coder.latent_shape == (4, positions)
        assert recipe.coder.decode(recipe.trained, latent)["video"].shape == (1, *clip.shape)


def test_the_first_stage_trains_the_autoencoder_alone():
    recipe = tiny()
    (phase,) = recipe.phases
    loss, logs = phase.loss(rows((0, 1)), Context(0, (0, 1), "p"))
    torch.testing.assert_close(loss.detach(), 4 * logs["l1"] + 4 * logs["perceptual"])
    loss.sum().backward()
    assert [n for n, p in recipe.trained.named_parameters() if p.grad is None] == []


def test_the_second_stage_takes_turns_of_three_steps():
    recipe = tiny(ADVERSARIAL)
    due = [{p.net for p in recipe.phases if p.when(step)} for step in range(7)]
    critics = {"frame_critic", "clip_critic"}
    assert due == [{"autoencoder"}] * 3 + [critics] * 3 + [{"autoencoder"}]
    assert set(recipe.untrained_at_start) == critics


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_each_adversarial_phase_moves_its_own_network(norm):
    recipe = tiny(dataclasses.replace(ADVERSARIAL, critic_norm=norm))
    for phase in recipe.phases:
        for name, net in recipe.trained.items():
            net.requires_grad_(name == phase.net).zero_grad()
        loss, _ = phase.loss(rows((0, 1)), Context(0, (0, 1), "p"))
        assert loss.shape == (2,)
        loss.sum().backward()
        missing = [n for n, p in recipe.trained[phase.net].named_parameters() if p.grad is None]
        assert missing == []


def test_the_adversarial_losses_are_the_formulas():
    real, fake = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)
    loss, _ = hinge(real, fake)
    by_hand = 0.5 * ((1 - real).clamp_min(0) + (1 + fake).clamp_min(0)).mean((1, 2, 3))
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(says_real(fake), -fake.mean((1, 2, 3)))
    layers = [torch.randn(2, 3, 4, dtype=torch.float64) for _ in range(3)]
    others = [layer + 1 for layer in layers]
    torch.testing.assert_close(
        feature_distance(layers, others), torch.full_like(real[:2, 0, 0, 0], 2)
    )


def test_diffusion_on_planes_trains_and_samples():
    stage = tiny()
    config = diffusion.Config(width=8, multipliers=(1, 2), blocks=1, heads=2, sampling_steps=2)
    recipe = diffusion.build(config, Given(CLIP, {"first_stage": stage}))
    loss, _ = recipe.phases[0].loss(rows((0, 1), frames=8), Context(0, (0, 1), "p"))
    loss.sum().backward()
    missing = [n for n, p in recipe.trained.named_parameters() if p.grad is None]
    assert missing == []


def test_planes_of_odd_size_need_fewer_levels():
    stage = tiny(clip=Clip(3, 8, 16))
    config = diffusion.Config(width=8, multipliers=(1, 2), blocks=1, heads=2)
    with pytest.raises(UserError, match="data.frames gives a latent frames of 3"):
        diffusion.build(config, Given(Clip(3, 8, 16), {"first_stage": stage}))
