import dataclasses
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from hvdm.errors import UserError
from hvdm.ops.wavelet import haar3d
from hvdm.recipe import Batch, Clip, Context, Given, Noise, SampleRequest, as_batch
from hvdm.recipes.hvdm.autoencoder import Config, build

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
    conv_channels=(4, 8),
    fusion_depth=1,
    perceptual="untrained",
)
CLIP = Clip(4, 8, 12)


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
    return build(config, Given(clip))


def rows(draws, clip=CLIP):
    shape = (clip.frames, clip.height, clip.width, clip.channels)
    videos = [
        torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(d)) for d in draws
    ]
    fields = {"video": torch.stack(videos).to(torch.uint8)}
    return Batch(fields, tuple(map(str, draws)), tuple(draws), torch.ones(len(draws)))


def loss_of(recipe, draws):
    return recipe.phases[0].loss(rows(draws), Context(0, tuple(draws), "autoencoder"))


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts_of_the_paper():
    with torch.device("meta"):
        net = build(Config(), Given(Clip(16, 256, 256))).trained["autoencoder"]
    encoder, decoder = net.encoder, net.decoder
    assert count(encoder.planes.patchify) + count(encoder.planes.backbone) == 16_818_432
    assert count(encoder.planes.triplane) == 3 * 2_763_776 + 33_024
    assert count(encoder.wavelet.low) == 3_434_304 + 3_983_616
    assert count(encoder.wavelet.high) == 3_444_672 + 3_983_616
    assert count(encoder.fusion) == 6_697_728
    assert count(encoder.bottleneck) == 1_540
    assert count(decoder.enter) == 1_920
    assert count(decoder.pixels.backbone) == 16_744_320
    assert count(decoder.pixels.to_pixel) == 73_731
    joined = 768 * 384 + 384 + 2 * 384
    assert count(net) == 63_508_231 + joined
    with torch.device("meta"):
        released = build(Config(variant="released"), Given(Clip(16, 256, 256)))
    assert count(released.trained["autoencoder"]) == 63_508_231


@pytest.mark.parametrize(
    "config, clip, latent",
    [
        (TINY, CLIP, (4, 4, 2, 3)),
        (TINY, Clip(6, 16, 8), (4, 6, 4, 2)),
        (TINY, Clip(2, 4, 4), (4, 2, 1, 1)),
        (TINY, Clip(4, 8, 8, channels=1), (4, 4, 2, 2)),
        (dataclasses.replace(TINY, patch=8), Clip(4, 16, 8), (4, 4, 2, 1)),
        (dataclasses.replace(TINY, patch=2, latent_channels=3), Clip(4, 4, 6), (3, 4, 2, 3)),
        (
            dataclasses.replace(TINY, patch=16, conv_channels=(4, 4, 4, 4)),
            Clip(2, 32, 16),
            (4, 2, 2, 1),
        ),
    ],
)
def test_shapes(config, clip, latent):
    recipe = tiny(config, clip)
    video = torch.rand(2, *clip.shape) * 2 - 1
    encoded = recipe.coder.encode(recipe.trained, as_batch(video))
    assert recipe.coder.latent_shape == latent == encoded.shape[1:]
    assert encoded.abs().max() < 1
    decoded = recipe.coder.decode(recipe.trained, encoded)["video"]
    assert decoded.shape == video.shape
    assert decoded.abs().max() < 1


@pytest.mark.parametrize("variant", ["figure", "released"])
@pytest.mark.parametrize(
    "clip, latent",
    [
        (Clip(16, 256, 256), (4, 16, 32, 32)),
        (Clip(16, 128, 128), (4, 16, 16, 16)),
        (Clip(16, 64, 64), (4, 16, 8, 8)),
        (Clip(8, 32, 32), (4, 8, 4, 4)),
        (Clip(12, 64, 128), (4, 12, 8, 16)),
    ],
)
def test_clip_shapes_of_the_paper_on_meta(variant, clip, latent):
    with torch.device("meta"):
        recipe = build(Config(variant=variant), Given(clip))
        video = torch.empty(1, *clip.shape)
        encoded = recipe.coder.encode(recipe.trained, as_batch(video))
        assert encoded.shape[1:] == recipe.coder.latent_shape == latent
        assert recipe.coder.decode(recipe.trained, encoded)["video"].shape == video.shape


def wavelet_features(config, video):
    net = tiny(config, Clip(4, 8, 8)).trained["autoencoder"].encoder.wavelet
    return net(video)


def test_wavelet_step_k_describes_frames_2k_and_2k_plus_1():
    keys, values = wavelet_features(TINY, torch.randn(1, 3, 4, 8, 8))
    assert keys is values
    assert keys.shape == (1, 4, 2, 2, 16)
    assert torch.equal(keys[:, 0], keys[:, 1])
    assert torch.equal(keys[:, 2], keys[:, 3])
    assert not torch.allclose(keys[:, 1], keys[:, 2])


def test_released_wavelet_steps_run_through_twice():
    config = dataclasses.replace(TINY, variant="released")
    for features in wavelet_features(config, torch.randn(1, 3, 4, 8, 8)):
        assert torch.equal(features[:, :2], features[:, 2:])
        assert not torch.allclose(features[:, 0], features[:, 1])


def test_a_static_clip_leaves_the_high_branch_without_motion():
    video = torch.randn(1, 3, 1, 8, 8).expand(-1, -1, 4, -1, -1)
    bands = haar3d(video)
    assert bands[:, 4:].abs().max() == 0
    assert bands[:, 1:4].abs().max() > 0


def parts_of(**changes):
    encoder = tiny(dataclasses.replace(TINY, **changes)).trained["autoencoder"].encoder
    return {name for name, module in encoder.named_children() if module is not None}


def test_ablations_leave_out_what_they_say():
    assert parts_of() == {"planes", "wavelet", "fusion", "bottleneck"}
    assert parts_of(branches="triplane") == {"planes", "bottleneck"}
    assert parts_of(branches="wavelet") == {"wavelet", "bottleneck"}


@pytest.mark.parametrize(
    "changes",
    [
        {"variant": "released"},
        {"branches": "triplane"},
        {"branches": "wavelet"},
        {"fusion": "sum"},
        {"wavelet": "2d"},
        {"conv_time": 3},
        {"conv_norm": "group"},
        {"wavelet_weight": 0.0},
    ],
)
def test_every_variant_trains_all_that_it_has(changes):
    recipe = tiny(dataclasses.replace(TINY, **changes))
    loss, _ = loss_of(recipe, (0, 1))
    loss.sum().backward()
    assert [n for n, p in recipe.trained.named_parameters() if p.grad is None] == []
    latent = recipe.coder.encode(recipe.trained, as_batch(torch.zeros(1, *CLIP.shape)))
    assert latent.shape[1:] == recipe.coder.latent_shape


def test_the_released_projection_reads_the_first_position():
    config = dataclasses.replace(TINY, variant="released")
    projection = tiny(config).trained["autoencoder"].encoder.planes.triplane.over_time
    assert projection.read == 0
    assert projection.positions.std() > 0.5


def test_loss_is_the_formula():
    with default_dtype(torch.float64):
        recipe, draws = tiny(), (3, 4)
        loss, logs = loss_of(recipe, draws)
        video = rows(draws).pixels()
        output = recipe.trained["autoencoder"](video)
    l1 = (video - output).abs().mean((1, 2, 3, 4))
    bands = (haar3d(video) - haar3d(output)).abs().mean((2, 3, 4, 5))
    torch.testing.assert_close(loss, 4 * l1 + 4 / 8 * bands.sum(1) + 4 * logs["perceptual"])
    mse = ((video - output) / 2).square().mean((1, 2, 3, 4))
    torch.testing.assert_close(logs["psnr"], 10 * (1 / mse).log10())
    assert set(logs) == {"l1", "wavelet", "perceptual", "psnr"}
    assert not any(value.requires_grad for value in logs.values())


def test_a_rows_loss_does_not_know_its_batch():
    with default_dtype(torch.float64):
        recipe = tiny()
        together, _ = loss_of(recipe, (0, 1, 2))
        alone = torch.cat([loss_of(recipe, (draw,))[0] for draw in (0, 1, 2)])
    torch.testing.assert_close(together, alone, atol=1e-9, rtol=0)


def test_loss_takes_nothing_from_the_global_generator():
    recipe = tiny()
    torch.manual_seed(1)
    first, _ = loss_of(recipe, (0, 1))
    before = torch.get_rng_state()
    second, _ = loss_of(recipe, (0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, second)


def test_every_weight_gets_a_gradient():
    recipe = tiny()
    loss_of(recipe, (0, 1))[0].sum().backward()
    missing = [n for n, p in recipe.trained.named_parameters() if p.grad is None]
    assert missing == []


def test_checkpointing_changes_no_gradient():
    gradients = []
    for flag in (False, True):
        recipe = tiny(dataclasses.replace(TINY, activation_checkpointing=flag))
        loss_of(recipe, (0, 1))[0].sum().backward()
        gradients.append([p.grad for p in recipe.trained.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_bf16_autocast_runs():
    recipe = tiny()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = loss_of(recipe, (0, 1))
    loss.sum().backward()
    torch.testing.assert_close(loss, loss_of(recipe, (0, 1))[0], rtol=0.1, atol=0)


def test_weights_come_from_the_seed():
    a, b = tiny(), tiny()
    assert all(
        torch.equal(p, q)
        for p, q in zip(a.trained.parameters(), b.trained.parameters(), strict=True)
    )


def test_it_learns_a_clip():
    recipe = tiny(dataclasses.replace(TINY, perceptual="none"))
    optimizer = torch.optim.AdamW(recipe.trained.parameters(), 5e-3)
    history = []
    for _ in range(40):
        loss, logs = loss_of(recipe, (0,))
        loss.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append(logs["l1"].item())
    assert history[-1] < 0.8 * history[0]


@pytest.mark.parametrize(
    "clip, words",
    [
        (Clip(5, 8, 8), "data.frames=5.*even"),
        (Clip(0, 8, 8), "data.frames=0.*even"),
        (Clip(4, 10, 8), "data.height=10.*multiple of model.patch=4"),
        (Clip(4, 8, 7), "data.width=7.*multiple of model.patch=4"),
    ],
)
def test_wrong_clips_are_refused(clip, words):
    with pytest.raises(UserError, match=words):
        tiny(clip=clip)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"patch": 6}, "model.patch=6"),
        ({"head_dim": 6}, "model.head_dim=6.*multiple of 4"),
        ({"patch": 16}, "model.conv_channels"),
        ({"perceptual": "lpips"}, "perceptual=lpips needs model.perceptual_weights"),
        ({"variant": "released", "fusion": "sum"}, "fusion=sum is no part of .*released"),
        ({"variant": "released", "branches": "triplane"}, "branches=triplane"),
    ],
)
def test_wrong_models_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        tiny(dataclasses.replace(TINY, **changes), Clip(4, 48, 48))


def test_it_does_not_sample():
    recipe = tiny()
    with pytest.raises(UserError, match="reconstruct"):
        recipe.sample(recipe.trained, SampleRequest(), Noise(0, (0,)))
