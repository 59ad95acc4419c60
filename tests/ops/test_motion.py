import numpy as np
import pytest
import torch

from hvdm.data.dissimilarity import dissimilarity
from hvdm.ops.motion import quantiles, rank, strength
from hvdm.recipe import to_model


def clips(count, side=16):
    generator = torch.Generator().manual_seed(4)
    return torch.randint(0, 256, (count, 3, side, side + 4, 3), generator=generator).byte()


@pytest.mark.parametrize("side", [5, 16])
def test_strength_is_what_the_data_tools_store(side):
    video = clips(3, side)
    found = strength(to_model(video))
    stored = [dissimilarity(v[0].numpy(), v[-1].numpy()) for v in video]
    np.testing.assert_allclose(found.numpy(), stored, atol=1e-5)


def test_a_clip_that_stands_still_has_none():
    still = to_model(clips(1))[:, :, :1].expand(-1, -1, 4, -1, -1)
    assert strength(still).item() == pytest.approx(0, abs=1e-12)


def test_ranks_are_uniform_over_the_set_and_keep_the_order():
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0)).double() ** 3
    ranks = rank(values, quantiles(values))
    counts = torch.histc(ranks, 10, 0, 1)
    assert counts.min() > 80 and counts.max() < 120
    ordered = values.sort().values
    assert (rank(ordered, quantiles(values)).diff() >= 0).all()


def test_equal_strengths_share_the_middle():
    levels = quantiles([0.0] * 50 + [1.0] * 50)
    low, high = rank(torch.tensor([0.0, 1.0]), levels)
    assert low == pytest.approx(0.25, abs=0.01) and high == pytest.approx(0.75, abs=0.01)


def test_without_levels_a_strength_is_its_own_rank():
    assert rank(torch.tensor([-1.0, 0.25, 2.0]), ()).tolist() == [0, 0.25, 1]
