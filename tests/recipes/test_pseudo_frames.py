"""Pseudo videos: what is in each frame, and that theorem 4.1 holds of them."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from data_tools.synthetic.making import make
from hvdm.config import DataConfig
from hvdm.errors import UserError
from hvdm.recipe import Noise
from hvdm.recipes.pseudo_video.frames import (
    Corruption,
    Ladder,
    amounts,
    betas_of,
    blur_widths,
    blurred,
    check_ladder,
    least_error,
    mixing,
    total_widths,
)
from launcher.cli import main

FIRST_ORDER = {
    4: [(0.9999, 0.010), (0.9873, 0.159), (0.9623, 0.272)],
    8: [(0.9999, 0.010), (0.9957, 0.092), (0.9874, 0.158), (0.9749, 0.223), (0.9585, 0.285),
        (0.9383, 0.346), (0.9146, 0.404)],
}  # fmt: skip
HIGH_ORDER = {
    4: [(0.9999, 0.010), (0.9874, 0.158), (0.9706, 0.229)],
    8: [(0.9999, 0.010), (0.9958, 0.092), (0.9902, 0.133), (0.9839, 0.164), (0.9772, 0.190),
        (0.9703, 0.213), (0.9632, 0.233)],
}  # fmt: skip


def test_widths_of_the_blur() -> None:
    assert blur_widths(8, 0.05) == pytest.approx(
        [1.000, 1.051, 1.105, 1.162, 1.221, 1.284, 1.350], abs=5e-4
    )
    assert total_widths(8, 0.05) == pytest.approx(
        [1.000, 1.451, 1.824, 2.163, 2.484, 2.796, 3.105], abs=5e-4
    )
    assert blur_widths(18, 0.01)[-1] == pytest.approx(1.174, abs=5e-4)
    last = total_widths(18, 0.01)[-1]  # the sum of a geometric series
    assert last == pytest.approx(math.sqrt(math.expm1(0.34) / math.expm1(0.02)), rel=1e-12)
    assert last == pytest.approx(4.477, abs=5e-4)


def test_a_point_is_spread_by_the_width() -> None:
    point = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    point[0, 0, 20, 20] = 1
    spread = blurred(blurred(point, 1.0), 1.2)
    places = torch.arange(41, dtype=torch.float64) - 20
    assert float(spread.sum()) == pytest.approx(1)
    variance = float((spread[0, 0].sum(0) * places.square()).sum())
    assert variance == pytest.approx(1.0 + 1.44, rel=1e-3)


def test_a_blur_is_one_convolution_within_a_mirror() -> None:
    images = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    bell = torch.exp(-0.5 * ((torch.arange(11, dtype=torch.float64) - 5) / 1.3).square())
    kernel = torch.outer(bell, bell)[None, None] / bell.sum() ** 2
    padded = functional.pad(images.flatten(0, 1)[:, None], (5,) * 4, mode="reflect")
    found = functional.conv2d(padded, kernel).reshape(images.shape)
    assert torch.allclose(blurred(images, 1.3), found)


@pytest.mark.parametrize("frames", [4, 8])
@pytest.mark.parametrize("corruption", ["noise", "noise-high", "noise-equal"])
def test_how_much_of_the_image_and_of_noise_is_in_a_frame(
    frames: int, corruption: Corruption
) -> None:
    ladder = Ladder(frames, corruption)
    found = amounts(mixing(betas_of(ladder), corruption == "noise-high"))
    high, first = HIGH_ORDER[frames], FIRST_ORDER[frames]
    if corruption == "noise-equal":
        assert [spread for _, spread in found] == pytest.approx([s for _, s in high], abs=5e-4)
        assert all(part**2 + spread**2 == pytest.approx(1) for part, spread in found)
        return
    for have, wanted in zip(found, high if corruption == "noise-high" else first, strict=True):
        assert have[0] == pytest.approx(wanted[0], abs=5e-5)
        assert have[1] == pytest.approx(wanted[1], abs=5e-4)
    images = torch.full((400, 1, 16, 16), 0.5)
    made = ladder.made(images, Noise(0, tuple(range(400))))
    for frame, (part, spread) in zip(made.unbind(2)[-2::-1], found, strict=True):
        assert float(frame.mean()) == pytest.approx(0.5 * part, abs=0.01 * spread + 1e-4)
        assert float(frame.std()) == pytest.approx(spread, rel=0.01)


@pytest.mark.parametrize(
    "corruption", ["blur", "blur-high", "noise", "noise-high", "noise-equal", "haar"]
)
def test_the_image_is_the_last_frame_and_rows_are_their_own(corruption: Corruption) -> None:
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    ladder = Ladder(4, corruption)
    made = ladder.made(images, Noise(0, (5, 6)))
    assert made.shape == (2, 3, 4, 16, 16) and torch.allclose(made[:, :, -1], images)
    alone = ladder.made(images[1:], Noise(0, (6,)))
    assert torch.allclose(alone, made[1:], atol=1e-6)
    apart = (made - images[:, :, None]).square().mean((0, 1, 3, 4))
    assert torch.all(apart[:-1] > apart[1:])
    assert Ladder(1, corruption).made(images, Noise(0, (5, 6))).shape == (2, 3, 1, 16, 16)


def test_a_low_band_is_a_mean() -> None:
    images = torch.rand(1, 3, 16, 16)
    first = Ladder(3, "haar").made(images, Noise(0, (0,)))[:, :, 0]
    mean = images.unflatten(3, (4, 4)).unflatten(2, (4, 4)).mean((3, 5))
    assert torch.allclose(first[:, :, ::4, ::4], mean, atol=1e-6)
    assert torch.allclose(first[:, :, 3::4, 3::4], mean, atol=1e-6)


def test_more_frames_help_where_the_chain_is_of_high_order() -> None:
    """Theorem 4.1: never worse; in a first-order chain, what is further off tells nothing more."""
    betas = [0.1, 0.2, 0.3, 0.4, 0.5]
    first = [least_error(betas, False, told) for told in (1, 2, 3, 4, 5)]
    high = [least_error(betas, True, told) for told in (1, 2, 3, 4, 5)]
    assert first == pytest.approx([first[0]] * 5, rel=1e-12)
    assert all(after < before * (1 - 1e-3) for before, after in zip(high, high[1:], strict=False))


@pytest.mark.parametrize(
    "ladder, said",
    [
        (Ladder(0), "model.frames=0 is below 1"),
        (Ladder(4, betas=(0.2, 0.1)), r"model.betas=\[0.2,0.1\]: expected"),
        (Ladder(8, "blur"), "the blur needs more than 5"),
        (Ladder(4, "haar"), "a multiple of 8"),
    ],
)
def test_what_cannot_be_made(ladder: Ladder, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_ladder(ladder, 4, 4)


def test_the_preview_shows_pseudo_videos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "shapes"
    make(data, seed=1, train=4, test=2, per_shard=4, frames=2, height=16, width=16, fps=8)
    typed = ["data", "preview", str(data), "count=2", "config=tiny/pseudo_diffusion"]
    assert main([*typed, "model.frames=8", "model.corruption=blur"]) == 0
    page = (data / "preview" / "index.html").read_text()
    assert page.count(".gif") == 4
    from PIL import Image

    (first, *_) = sorted((data / "preview").glob("*.gif"))
    with Image.open(first) as film:
        assert getattr(film, "n_frames") == 8  # noqa: B009
    with Image.open(data / "preview" / "train.png") as sheet:
        assert sheet.size == (8 * 96, 2 * 96)
    assert main([*typed[:4], "model.frames=8"]) == 2
    assert "name it with config=NAME" in capsys.readouterr().err
    assert main([*typed[:4], "config=tiny/wavediff"]) == 2
    assert "wavediff.diffusion makes no frames of samples" in capsys.readouterr().err


def test_one_frame_and_many_read_the_same_rows() -> None:
    from hvdm.recipes.pseudo_video import diffusion

    data = DataConfig("datasets/digits", frames=1)
    one, many = (diffusion.reads(diffusion.Config(frames=n), data) for n in (1, 8))
    assert [f.shape for f in one] == [f.shape for f in many]
