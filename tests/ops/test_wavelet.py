import math

import pytest
import torch

from hvdm.ops.wavelet import (
    SPACE,
    SPACE_TIME,
    TIME,
    haar,
    haar3d,
    inverse_haar,
    inverse_haar3d,
)


def clip(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(2, 3, 6, 4, 8, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "dims, shape",
    [(TIME, (2, 2, 3, 3, 4, 8)), (SPACE, (2, 4, 3, 6, 2, 4)), (SPACE_TIME, (2, 8, 3, 3, 2, 4))],
)
def test_inverse_restores_the_clip_and_energy_is_kept(dims, shape):
    bands = haar(clip(), dims)
    assert bands.shape == shape
    torch.testing.assert_close(inverse_haar(bands, dims), clip(), atol=1e-12, rtol=0)
    torch.testing.assert_close(bands.square().sum(), clip().square().sum())


def test_3d_restores_in_float32():
    video = clip(torch.float32)
    torch.testing.assert_close(inverse_haar3d(haar3d(video)), video, atol=1e-6, rtol=0)


def test_images_too():
    image = clip()[:, :, 0]
    bands = haar(image, (2, 3))
    assert bands.shape == (2, 4, 3, 2, 4)
    torch.testing.assert_close(inverse_haar(bands, (2, 3)), image)


def test_constant_clip_is_all_in_lll():
    bands = haar3d(torch.full((1, 1, 4, 4, 4), 0.7, dtype=torch.float64))
    torch.testing.assert_close(bands[:, 0], torch.full_like(bands[:, 0], 2 * math.sqrt(2) * 0.7))
    assert bands[:, 1:].abs().max() == 0


def test_static_clip_has_no_high_time():
    still = clip()[:, :, :1].expand(-1, -1, 6, -1, -1)
    bands = haar3d(still)
    assert bands[:, 4:].abs().max() == 0
    assert bands[:, 1:4].abs().min(0).values.max() > 0


@pytest.mark.parametrize("axis, band", [(2, 4), (3, 2), (4, 1)])
def test_letters_are_time_height_width(axis, band):
    shape = [1, 1, 1, 1, 1]
    shape[axis] = 8
    video = torch.randn(shape, dtype=torch.float64).expand(1, 1, 8, 8, 8)
    energy = haar3d(video).square().sum((0, 2, 3, 4, 5))
    assert set(energy.gt(1e-20).nonzero().flatten().tolist()) == {0, band}


def test_odd_sizes_are_refused():
    with pytest.raises(RuntimeError, match="unflatten"):
        haar3d(torch.zeros(1, 3, 5, 4, 4))
