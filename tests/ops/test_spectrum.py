import torch

from hvdm.data.clips import View
from hvdm.data.moves import SPECTRUM
from hvdm.ops import spectrum as ops


def motion(frames: int = 150) -> torch.Tensor:
    torch.manual_seed(0)
    drawn = torch.randn(2, frames, 2, 3, 5, dtype=torch.float64)
    return drawn - drawn[:, :1]


def test_all_bins_lead_back() -> None:
    for frames in (150, 31):
        whole = ops.spectrum_of(motion(frames), frames // 2 + 1)
        assert torch.allclose(ops.motion_of(whole, frames), motion(frames), atol=1e-12)
        times = torch.arange(frames)
        assert torch.allclose(ops.motion_at(whole, frames, times), motion(frames), atol=1e-10)


def test_sixteen_bins_hold_a_slow_sine() -> None:
    """1 Hz for five seconds at 30 frames a second: five whole periods."""
    time = torch.arange(150, dtype=torch.float64) / 30
    sine = (2 * torch.pi * time).sin()[:, None, None, None].expand(150, 2, 2, 2)
    found = ops.spectrum_of(sine, 16)
    assert torch.allclose(ops.motion_of(found, 150), sine, atol=1e-12)
    assert found.abs()[:, 0, 0, 0].argmax() == 5


def test_between_frames_the_series_is_that_of_twice_as_many() -> None:
    found = ops.spectrum_of(motion(), 16)
    twice = ops.motion_of(2 * found, 300)
    halves = ops.motion_at(found, 150, torch.arange(300) / 2)
    assert torch.allclose(halves, twice, atol=1e-10)


def test_normalising_leads_back() -> None:
    torch.manual_seed(0)
    channels, scales = torch.randn(2, 6, 4, 5, 7).double() * 30, torch.rand(6).double() * 50 + 0.1
    channels[0, 0, 0, 0, 0] = 0
    there = ops.normalised(channels, scales)
    assert torch.allclose(ops.denormalised(there, scales), channels, atol=1e-5)
    at_scale = scales[None, :, None, None, None].expand(1, 6, 4, 1, 1)
    assert torch.allclose(ops.normalised(at_scale, scales), torch.ones_like(at_scale))
    assert torch.equal(ops.as_channels(ops.as_complex(channels)), channels)


def test_coherence_is_one_of_equals_and_small_of_strangers() -> None:
    torch.manual_seed(0)
    one = torch.randn(2, 1, 2, 30, 30, dtype=torch.complex64)
    assert torch.allclose(ops.coherence(one.repeat(1, 3, 1, 1, 1)), torch.ones(2, 2))
    strangers = torch.randn(2, 3, 2, 30, 30, dtype=torch.complex64)
    assert float(ops.coherence(strangers).max()) < 0.1


def test_a_flip_negates_x_of_both_parts_and_size_scales() -> None:
    """Stored as `K 2 2 H W` and complex alike."""
    torch.manual_seed(0)
    found = ops.spectrum_of(motion()[0], 4)
    stored = torch.stack((found.real, found.imag), 1).numpy()
    flipped = SPECTRUM.follow(stored, View(0, 0, 3, 5, 3, 5, flip=True))
    again = SPECTRUM.follow(found.numpy(), View(0, 0, 3, 5, 3, 5, flip=True))
    assert (flipped[:, 0] + 1j * flipped[:, 1] == again).all()
    assert (again[:, 0] == -found.numpy()[:, 0, :, ::-1]).all()
    wide = SPECTRUM.follow(torch.ones(1, 2, 2, 3, 5).numpy(), View(0, 0, 3, 5, 6, 15))
    assert wide.shape == (1, 2, 2, 6, 15)
    assert abs(wide[:, :, 0] - 3).max() < 1e-6 and abs(wide[:, :, 1] - 2).max() < 1e-6
