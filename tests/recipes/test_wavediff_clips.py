"""WaveDiff on clips: bands of space and time, networks that halve time, what came before."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hvdm.config import DataConfig
from hvdm.data.fields import read_media
from hvdm.errors import UserError
from hvdm.ops.wavelet import haar3d
from hvdm.recipe import Batch, Clip, Context, Given, Noise
from hvdm.recipes.wavediff import diffusion
from hvdm.recipes.wavediff.bands import Bands
from hvdm.recipes.wavediff.diffusion import Config
from hvdm.recipes.wavediff.discriminator import CriticShape, Discriminator
from hvdm.recipes.wavediff.generator import Generator, GeneratorShape
from hvdm.recipes.wavediff.layers import FrequencyUp, Grid, joined, split
from hvdm.sampling import ask
from launcher.arguments import call
from launcher.verbs import samples
from tests.recipes.test_load import run_of

CLIP = Clip(8, 16, 16)
SMALL = Config(
    width=8, multipliers=(1, 2), attention=(), over_time=(8, 4), blocks=1, mapping=1, steps=4,
    labels=3, before=8, critic="large", critic_layers=2, critic_width=4, gradient_penalty=0.5,
)  # fmt: skip


def built(config: Config = SMALL, clip: Clip = CLIP) -> Any:
    torch.manual_seed(0)
    return diffusion.build(config, Given(clip))


def rows(count: int = 8, frames: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(256, (count, frames, 16, 16, 3), generator=generator, dtype=torch.uint8)
    fields = {"video": video, "label": torch.arange(count) % 3}
    return Batch(fields, ("row",) * count, tuple(range(count)), torch.ones(count))


def context(phase: int, step: int = 1) -> Context:
    return Context(0, tuple(range(8)), f"phase{phase}", step=step)


def test_bands_of_clips_lie_within_one_and_lead_back() -> None:
    bands = Bands(CLIP, wavelet=True)
    video = torch.rand(2, *CLIP.shape, dtype=torch.float64) * 2 - 1
    y = bands.of(video)
    assert y.shape[1:] == bands.shape == (24, 4, 8, 8)
    assert torch.equal(y, haar3d(video).flatten(1, 2) / math.sqrt(8))
    assert torch.allclose(bands.back(y), video, atol=1e-12)
    # a white clip fills the whole range, and a checkerboard in space and time its highest band
    assert torch.allclose(bands.of(torch.ones(1, *CLIP.shape))[:, :3], torch.ones(1, 3, 4, 8, 8))
    places = sum(torch.meshgrid(*(torch.arange(n) for n in CLIP.shape[1:]), indexing="ij"))
    board = (1 - 2 * (places % 2)).float().expand(1, *CLIP.shape)
    assert torch.allclose(bands.of(board)[:, -3:].abs(), torch.ones(1, 3, 4, 8, 8))


@pytest.mark.parametrize(
    "frames, halved", [(8, (2, 3, 4)), (2, (2, 3, 4)), (1, (3, 4)), (0, (2, 3))]
)
def test_time_is_halved_as_long_as_it_can_be(frames: int, halved: tuple[int, ...]) -> None:
    grid = Grid(frames)
    assert grid.halving == halved and grid.bands == 2 ** len(halved)
    assert grid.below.frames == (1 if frames == 1 else frames // 2)
    x = torch.randn(2, 3, *([frames] if frames else []), 4, 8)
    low, high = split(x, grid.halving)
    assert high.shape[1] == grid.bands - 1
    assert torch.allclose(joined(low, high, grid.halving), x, atol=1e-5)


def test_generators_of_clips_halve_time_then_space_alone() -> None:
    shape = GeneratorShape(24, 16, 8, (1, 2, 2, 2), (4,), frames=4, over_time=(16, 8, 4), labels=3)
    net = Generator(shape)
    # a grouped convolution of seven bands where time is halved, of three where it is not
    high = [way.widen.high for way in net.ways_up if isinstance(way.widen, FrequencyUp)]
    assert [first_of(layer).groups for layer in high] == [3, 7, 7]
    y, t, z = torch.randn(2, 24, 4, 16, 16), torch.tensor([0, 3]), torch.randn(2, 100)
    out = net(y, t, z, torch.tensor([0, 2]))
    assert out.shape == y.shape and out.abs().max() < 1e-4
    nn.init.normal_(first_of(net.head).weight, std=0.02)
    out = net(y, t, z, torch.tensor([0, 2]))
    assert out.abs().max() < 1 and out.std() > 0.05


def first_of(layer: nn.Module) -> nn.Conv3d:
    """The convolution of each frame."""
    first = layer[0] if isinstance(layer, nn.Sequential) else layer
    assert isinstance(first, nn.Conv3d)
    return first


def test_a_network_of_clips_begins_as_that_of_pictures_for_each_frame() -> None:
    """Convolutions over time begin as the identity, so a picture's weights fit."""
    torch.manual_seed(0)
    sizes = {"channels": 24, "side": 8, "width": 8, "multipliers": (1,), "bottleneck": False}
    flat = Generator(GeneratorShape(**sizes))  # type: ignore[arg-type]
    long = Generator(GeneratorShape(**sizes, frames=4))  # type: ignore[arg-type]
    nn.init.normal_(flat.head.weight, std=0.02)  # type: ignore[arg-type]
    own = long.state_dict()
    for name, value in flat.state_dict().items():
        owner, _, kind = name.rpartition(".")
        fits = name if name in own else f"{owner}.0.{kind}"
        own[fits] = value.unsqueeze(2) if value.ndim == 4 else value
    long.load_state_dict(own)
    frame, z, t = torch.randn(2, 24, 8, 8), torch.randn(2, 100), torch.tensor([1, 2])
    still = long(frame[:, :, None].expand(-1, -1, 4, -1, -1), t, z)
    # equal frames have one frame's statistics, and attention sees them as one
    assert still.std() > 0.05
    assert torch.allclose(still, flat(frame, t, z)[:, :, None].expand_as(still), atol=1e-5)


def test_critics_see_pairs_of_clips_and_what_came_before() -> None:
    torch.manual_seed(0)
    critic = Discriminator(CriticShape(24, 2, False, 4, labels=3, width=4, frames=4, past=True))
    assert critic.stem.in_channels == 72
    pair = torch.randn(2, 4, 24, 4, 8, 8)
    told = (torch.arange(4), torch.tensor([0, 1, 2, 0]))
    scores = critic(*pair, *told, pair[0])
    assert scores.shape == (4,)
    assert not torch.allclose(scores, critic(*pair, *told))
    without = critic(*pair, *told, torch.zeros_like(pair[0]))
    assert torch.equal(critic(*pair, *told), without)


def test_losses_of_clips_begin_where_an_empty_answer_does() -> None:
    recipe = built()
    assert recipe.group == 4 and recipe.bands.shape == (24, 4, 8, 8)
    assert recipe.critic_loss(rows(), context(0))[0].shape == (8,)
    loss, logs = recipe.generator_loss(rows(), context(1))
    clean = recipe.bands.of(rows().pixels()[:, :, 8:]).abs().flatten(1).mean(1)
    assert loss.shape == (8,) and torch.allclose(logs["reconstruction"], clean, atol=1e-4)
    recipe.config = replace(SMALL, band_weights=(1.0,) * 4 + (3.0,) * 4)
    heavier = recipe.generator_loss(rows(), context(1))[1]["reconstruction"]
    bands = recipe.bands.of(rows().pixels()[:, :, 8:]).abs().unflatten(1, (8, 3)).flatten(2).mean(2)
    expected = (bands[:, :4].sum(1) + 3 * bands[:, 4:].sum(1)) / 8
    assert torch.allclose(heavier, expected, atol=1e-4)


def test_a_share_of_the_rows_is_told_its_past() -> None:
    recipe = built(replace(SMALL, conditional=0.5))
    (past,) = [recipe._drawn(rows(), context(0)).told[1]]
    told = past.abs().flatten(1).sum(1) > 0
    assert 0 < int(told.sum()) < 8
    expected = recipe.bands.of(rows().pixels()[:, :, :8])
    assert torch.equal(past[told], expected[told])
    data = DataConfig("datasets/digits", frames=8)
    assert diffusion.reads(SMALL, data)[0].shape[0] == 16  # type: ignore[index]


def test_clips_and_long_ones_are_functions_of_their_draws() -> None:
    recipe = built()
    calls: list[int] = []
    recipe.trained["generator"].register_forward_hook(lambda *given: calls.append(1))
    with torch.no_grad():
        for value in recipe.trained["generator"].head.parameters():
            value.normal_(std=0.1)
    assert list(recipe.samples) == ["clip", "long"]
    clips = recipe.sample(recipe.trained, ask(recipe), Noise(0, (0, 1)))
    assert clips.shape == (2, 3, 8, 16, 16) and len(calls) == 4
    calls.clear()
    seen: list[float] = []
    asked = ask(recipe, "long", options={"frames": "20", "label": "1"})
    asked = replace(asked, progress=seen.append)
    long = recipe.sample(recipe.trained, asked, Noise(0, (0, 1)))
    assert long.shape == (2, 3, 20, 16, 16) and len(calls) == 12 and seen[-1] == 1
    again = recipe.sample(recipe.trained, asked, Noise(0, (1,)))
    assert torch.allclose(again[0], long[1], atol=1e-5)
    first = recipe.sample(recipe.trained, ask(recipe, options={"label": "1"}), Noise(0, (0, 1)))
    assert torch.allclose(long[:, :, :8], first, atol=1e-5)
    assert float((long[:, :, 8:16] - long[:, :, :8]).abs().mean()) > 1e-3


@pytest.mark.parametrize(
    "config, clip, said",
    [
        (SMALL, Clip(7, 16, 16), "data.frames=7: bands of clips need an even number, or 1"),
        (replace(SMALL, folded=2), Clip(8, 32, 32), "are of pictures"),
        (replace(SMALL, variant="released"), CLIP, "are of pictures"),
        (replace(SMALL, before=4), CLIP, "use model.before=8, or 0"),
        (SMALL, Clip(1, 16, 16), r"model.before=8: .*pictures have none"),
        (replace(SMALL, conditional=2.0), CLIP, "model.conditional=2.0: it is a share"),
        (replace(SMALL, band_weights=(1.0,)), CLIP, "model.band_weights has 1 numbers: 8 bands"),
    ],
)  # fmt: skip
def test_clips_that_cannot_be_built(config: Config, clip: Clip, said: str) -> None:
    with pytest.raises(UserError, match=said):
        built(config, clip)


def test_a_number_of_frames_below_one_is_refused() -> None:
    recipe = built()
    with pytest.raises(UserError, match="frames=0 is below 1"):
        recipe.sample(recipe.trained, ask(recipe, "long", options={"frames": "0"}), Noise(0, (0,)))


def test_a_run_goes_on_from_clip_to_clip(tmp_path: Path) -> None:
    """By the command line, from a checkpoint."""
    sizes = ["model.width=8", "model.critic_width=4", "model.multipliers=[1,2]"]
    size = ["data.frames=4", "data.height=16", "data.width=16", "model.before=4"]
    run_of("tiny/wavediff_video", tmp_path / "run", *sizes, *size)
    out, run = tmp_path / "out", f"run={tmp_path}/run"
    typed = [run, "what=long", "frames=10", "label=3", "count=2", f"out={out}", "cluster=inline"]
    assert call(samples.sample, typed) == 0
    films = sorted(out.glob("*.mp4"))
    assert len(films) == 2
    assert len(read_media({"mp4": films[0].read_bytes()})) == 10
    run_of("tiny/wavediff_video", tmp_path / "alone", *sizes, *size[:-1])
    with pytest.raises(UserError, match="what=long: this model cannot sample that"):
        call(samples.sample, [f"run={tmp_path}/alone", *typed[1:]])
