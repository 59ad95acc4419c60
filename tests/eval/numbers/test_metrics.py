import math

import pytest
import torch

from eval.numbers.metrics import C1, psnr, ssim
from hvdm.errors import UserError


def grey(value, frames=2, side=16):
    return torch.full((1, frames, side, side, 3), value, dtype=torch.uint8)


def test_psnr_of_a_constant_difference():
    found = psnr(grey(100), grey(110))
    assert found.values.item() == pytest.approx(-20 * math.log10(10 / 255), rel=1e-12)
    assert found.exact_frames.item() == 0


def test_psnr_is_the_mean_over_frames_and_counts_exact_ones():
    a, b = grey(100), grey(100)
    b[:, 1] += 10
    found = psnr(a, b)
    assert found.values.item() == pytest.approx((100 - 20 * math.log10(10 / 255)) / 2)
    assert found.exact_frames.tolist() == [1]


@pytest.mark.parametrize(("a", "b"), [(100, 110), (0, 255), (30, 30)])
def test_ssim_of_constants(a, b):
    expected = (2 * a * b + C1) / (a * a + b * b + C1)
    assert ssim(grey(a), grey(b)).item() == pytest.approx(expected, rel=1e-9)


def test_ssim_of_black_and_white_is_the_published_figure():
    assert ssim(grey(0), grey(255)).item() == pytest.approx(9.999e-5, rel=1e-4)


def test_ssim_is_one_for_equal_clips_and_falls_with_noise(video):
    assert ssim(video, video).tolist() == pytest.approx([1, 1])
    assert (ssim(video, video.flip(1)) < 0.2).all()


def test_ssim_is_the_windowed_formula_at_one_place(video):
    """An independent sum over the one window of an 11x11 frame."""
    a, b = (v[:1, :1, :11, :11, :1].double() for v in (video, video.flip(2)))
    x = torch.arange(11, dtype=torch.float64) - 5
    g = torch.exp(-(x**2) / 4.5)
    w = torch.outer(g, g) / g.sum() ** 2
    a, b = a[0, 0, :, :, 0], b[0, 0, :, :, 0]
    ma, mb = (w * a).sum(), (w * b).sum()
    va, vb = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum()
    both = (w * (a - ma) * (b - mb)).sum()
    c2 = (0.03 * 255) ** 2
    expected = (2 * ma * mb + C1) * (2 * both + c2) / ((ma**2 + mb**2 + C1) * (va + vb + c2))
    cut = [v[:1, :1, :11, :11, :1].expand(-1, -1, -1, -1, 3) for v in (video, video.flip(2))]
    assert ssim(*cut).item() == pytest.approx(expected.item(), rel=1e-9)


def test_what_cannot_be_compared_is_refused(video):
    with pytest.raises(UserError, match="11x11 .* 8x8"):
        ssim(grey(1, side=8), grey(1, side=8))
    with pytest.raises(UserError, match="differ in shape"):
        psnr(video, video[:, :3])
    with pytest.raises(UserError, match="expected uint8"):
        psnr(video.float(), video)
